// KerasqHashedDense: options and tensors.
#include <limits>

#include "tflite/conv_op.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

enum Input { kValues = 1, kMultiplier, kBias, kNumInputs };

class HashedOp : public ConvOp {
 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    constexpr int kLargest = std::numeric_limits<int>::max();
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, /*dense=*/true, conv));
    KERASQ_RETURN_IF_ERROR(options.Get("channels_in", 1, kMaxOption, &channels_in_));
    KERASQ_RETURN_IF_ERROR(options.Get("buckets", 1, kLargest, &buckets_));
    return options.Get("seed", 0, kLargest, &seed_);
  }

  size_t NumInputs() const override { return kNumInputs; }

  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    KERASQ_RETURN_IF_ERROR(CheckChannelsIn(channels_in_, geometry));
    const TfLiteTensor& values = *inputs[kValues];
    const bool half = values.type == kTfLiteFloat16;
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("values", values, half ? kTfLiteFloat16 : kTfLiteFloat32, {buckets_}));
    HashedWeights weights = {};
    weights.seed = seed_;
    weights.value_data = values.data.data;
    weights.values_are_f16 = half;
    weights.buckets = buckets_;
    KERASQ_RETURN_IF_ERROR(
        ReadOutput(*inputs[kMultiplier], *inputs[kBias], geometry, activation, &weights));
    std::string error;
    *packed = MakeHashedConv(geometry, weights, &error);
    return *packed ? Status::Ok() : Status::Error(error);
  }

 private:
  int channels_in_ = 1, buckets_ = 1, seed_ = 0;
};

}  // namespace

std::unique_ptr<ConvOp> NewHashedOp() { return std::make_unique<HashedOp>(); }

}  // namespace kerasq
