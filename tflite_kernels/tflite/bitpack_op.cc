// KerasqBitpack and KerasqBitpackMaxPool2D: options and tensors.
#include "tflite/conv_op.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

// Floats of any shape to words of bits, along the last axis.
class BitpackOp : public ConvOp {
 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, /*dense=*/true, conv));
    conv->bits_out = true;
    conv->groups = channels_ = conv->channels_out;
    return Status::Ok();
  }

  size_t NumInputs() const override { return 3; }

  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    KERASQ_ENSURE(geometry.in_c == channels_, "it packs ", channels_,
                  " channels, but its input has ", geometry.in_c);
    const TfLiteTensor &thresholds = *inputs[1], &direction = *inputs[2];
    const Extent channels(1, channels_);
    KERASQ_RETURN_IF_ERROR(CheckConstant("thresholds", thresholds, kTfLiteFloat32, {channels}));
    KERASQ_RETURN_IF_ERROR(CheckConstant("direction", direction, kTfLiteFloat32, {channels}));
    const BitpackWeights weights = {thresholds.data.f, Dimension(thresholds, 0), direction.data.f,
                                    Dimension(direction, 0)};
    std::string error;
    *packed = MakeBitpack(geometry, weights, &error);
    return *packed ? Status::Ok() : Status::Error(error);
  }

 private:
  int channels_ = 0;
};

class BitMaxPoolOp : public ConvOp {
 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, /*dense=*/false, conv));
    // Then every window holds a pixel.
    KERASQ_ENSURE(
        conv->padding != Padding::kExplicit && conv->dilation_h == 1 && conv->dilation_w == 1,
        "its padding is explicit or its window dilated: max pooling has neither");
    KERASQ_ENSURE(conv->groups == conv->channels_out, "it pools ", conv->channels_out,
                  " channels in ", conv->groups, " groups");
    conv->bits_in = conv->channels_out;
    conv->bits_out = true;
    return Status::Ok();
  }

  size_t NumInputs() const override { return 2; }

  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("minimum", *inputs[1], kTfLiteInt32, {BitWords(geometry.in_c)}));
    const BitMaxPoolWeights weights = {static_cast<const int32_t*>(inputs[1]->data.data)};
    std::string error;
    *packed = MakeBitMaxPool(geometry, weights, &error);
    return *packed ? Status::Ok() : Status::Error(error);
  }
};

}  // namespace

std::unique_ptr<ConvOp> NewBitpackOp() { return std::make_unique<BitpackOp>(); }
std::unique_ptr<ConvOp> NewBitMaxPoolOp() { return std::make_unique<BitMaxPoolOp>(); }

}  // namespace kerasq
