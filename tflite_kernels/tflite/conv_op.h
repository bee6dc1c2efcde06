// An operator of the file, before and after its weights are packed.
#ifndef KERASQ_TFLITE_CONV_OP_H_
#define KERASQ_TFLITE_CONV_OP_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/operators.h"
#include "tflite/conv_options.h"
#include "tflite/options.h"
#include "tflite/status.h"
#include "tflite/tensors.h"
#include "tflite/tflite_c_api.h"

namespace kerasq {

using TensorList = std::vector<const TfLiteTensor*>;

class ConvOp {
 public:
  virtual ~ConvOp() = default;

  // Make the operator called `name` from the options stored with it.
  static Status Create(const std::string& name, const void* options, size_t size,
                       std::unique_ptr<ConvOp>* op);

  // Check the tensors, compute the output's shape, and pack the weights where that is still to be
  // done. May be called again when the input changes its shape.
  Status Prepare(const TensorList& inputs, std::vector<int>* output_shape);

  const ConvGeometry& geometry() const { return geometry_; }
  // Floats, or words of bits.
  TfLiteType output_type() const { return conv_.bits_out ? kTfLiteInt32 : kTfLiteFloat32; }
  // Null until Prepare has succeeded.
  const ConvOperator* packed() const { return packed_.get(); }

 protected:
  virtual Status ReadOptions(const Options& options, ConvOptions* conv) = 0;
  virtual size_t NumInputs() const = 0;
  // Check the constants against the geometry, which CheckGeometry has passed, and pack them.
  virtual Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation activation,
                      std::unique_ptr<ConvOperator>* packed) const = 0;

 private:
  ConvOptions conv_;
  ConvGeometry geometry_ = {};
  std::unique_ptr<ConvOperator> packed_;
};

std::unique_ptr<ConvOp> NewBitplaneOp(bool dense);
std::unique_ptr<ConvOp> NewBitpackOp();
std::unique_ptr<ConvOp> NewBitMaxPoolOp();
std::unique_ptr<ConvOp> NewCodebookOp(bool dense);
std::unique_ptr<ConvOp> NewSparseOp(bool dense);
std::unique_ptr<ConvOp> NewHashedOp();

// Whether the input has the channels that weights without a shape were stored for.
Status CheckChannelsIn(int channels_in, const ConvGeometry& geometry);

// Checks what follows the sum, and puts it into the weights.
template <typename Weights>
Status ReadOutput(const TfLiteTensor& multiplier, const TfLiteTensor& bias,
                  const ConvGeometry& geometry, Activation activation, Weights* weights) {
  const Extent channels(1, geometry.out_c);
  KERASQ_RETURN_IF_ERROR(CheckConstant("multiplier", multiplier, kTfLiteFloat32, {channels}));
  KERASQ_RETURN_IF_ERROR(CheckConstant("bias", bias, kTfLiteFloat32, {channels}));
  weights->multiplier = multiplier.data.f;
  weights->multiplier_size = Dimension(multiplier, 0);
  weights->bias = bias.data.f;
  weights->bias_size = Dimension(bias, 0);
  weights->activation = activation;
  return Status::Ok();
}

// The names that Create knows, ended by null.
extern const char* const kOperatorNames[];

}  // namespace kerasq

#endif  // KERASQ_TFLITE_CONV_OP_H_
