#include "tflite/conv_op.h"

#include <utility>

#include "core/checks.h"
#include "tflite/tensors.h"

namespace kerasq {

const char* const kOperatorNames[] = {"KerasqBitplaneConv2D",   "KerasqBitplaneDense",
                                      "KerasqCodebookConv2D",   "KerasqCodebookDense",
                                      "KerasqSparseConv2D",     "KerasqSparseDense",
                                      "KerasqHashedDense",      "KerasqBitpack",
                                      "KerasqBitpackMaxPool2D", nullptr};

Status ConvOp::Create(const std::string& name, const void* options, size_t size,
                      std::unique_ptr<ConvOp>* op) {
  std::unique_ptr<ConvOp> made;
  if (name == "KerasqBitplaneConv2D") made = NewBitplaneOp(/*dense=*/false);
  if (name == "KerasqBitplaneDense") made = NewBitplaneOp(/*dense=*/true);
  if (name == "KerasqBitpack") made = NewBitpackOp();
  if (name == "KerasqBitpackMaxPool2D") made = NewBitMaxPoolOp();
  if (name == "KerasqCodebookConv2D") made = NewCodebookOp(/*dense=*/false);
  if (name == "KerasqCodebookDense") made = NewCodebookOp(/*dense=*/true);
  if (name == "KerasqSparseConv2D") made = NewSparseOp(/*dense=*/false);
  if (name == "KerasqSparseDense") made = NewSparseOp(/*dense=*/true);
  if (name == "KerasqHashedDense") made = NewHashedOp();
  KERASQ_ENSURE(made != nullptr, "this library does not know the operator: update kerasq");
  Options parsed;
  KERASQ_RETURN_IF_ERROR(Options::Parse(options, size, &parsed));
  KERASQ_RETURN_IF_ERROR(made->ReadOptions(parsed, &made->conv_));
  *op = std::move(made);
  return Status::Ok();
}

Status CheckChannelsIn(int channels_in, const ConvGeometry& geometry) {
  KERASQ_ENSURE(channels_in == geometry.group_in(), "its weights are of ", channels_in,
                " input channels a group, but its input has ", geometry.group_in(),
                ": the file is damaged or does not fit its input, convert it again");
  return Status::Ok();
}

Status ConvOp::Prepare(const TensorList& inputs, std::vector<int>* output_shape) {
  KERASQ_ENSURE(inputs.size() == NumInputs(), "it has ", inputs.size(), " inputs, expected ",
                NumInputs());
  if (conv_.bits_in > 0) {
    KERASQ_ENSURE(inputs[0]->type == kTfLiteInt32, "its input has type ", TypeName(inputs[0]->type),
                  ", expected int32: words of bits");
  } else {
    KERASQ_ENSURE(inputs[0]->type == kTfLiteFloat32, "its input has type ",
                  TypeName(inputs[0]->type),
                  ", expected float32: put a Dequantize operator before it, as the converter does");
  }
  ConvGeometry geometry;
  KERASQ_RETURN_IF_ERROR(ComputeGeometry(conv_, *inputs[0], &geometry, output_shape));
  // Constants do not change between two calls; the number of channels decides how they are packed.
  if (packed_ == nullptr || geometry.in_c != geometry_.in_c) {
    packed_.reset();
    const std::string wrong = CheckGeometry(geometry);  // Pack multiplies its sizes
    KERASQ_ENSURE(wrong.empty(), wrong);
    KERASQ_RETURN_IF_ERROR(Pack(inputs, geometry, conv_.activation, &packed_));
  }
  geometry_ = geometry;
  return Status::Ok();
}

}  // namespace kerasq
