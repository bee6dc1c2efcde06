// KerasqBitplaneConv2D and KerasqBitplaneDense: options and tensors.
#include "core/checks.h"
#include "tflite/conv_op.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

enum Input {
  kPlanes = 1,
  kWeightBasis,
  kBias,
  kThresholds,
  kDirection,
  kLevelBits,
  kInputBasis,
  kNumInputs,
};

class BitplaneOp : public ConvOp {
 public:
  explicit BitplaneOp(bool dense) : dense_(dense) {}

 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, dense_, conv));
    KERASQ_RETURN_IF_ERROR(options.Get("weight_planes", 1, kMaxWeightPlanes, &weight_planes_));
    KERASQ_RETURN_IF_ERROR(options.Get("input_planes", 0, kMaxInputPlanes, &input_planes_));
    return dense_ ? Status::Ok() : options.Get("pad_value", 0, 1, &pad_value_);
  }

  size_t NumInputs() const override { return input_planes_ == 0 ? kThresholds : kNumInputs; }

  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    BitplaneWeights weights = {};
    weights.weight_planes = weight_planes_;
    weights.input_planes = input_planes_;
    weights.pad_value = pad_value_;
    weights.activation = activation;
    KERASQ_RETURN_IF_ERROR(ViewWeights(inputs, geometry, &weights));
    if (input_planes_ > 0) {
      KERASQ_RETURN_IF_ERROR(ViewQuantizer(inputs, geometry, &weights));
    }
    std::string error;
    *packed = MakeBitplaneConv(geometry, weights, &error);
    return *packed ? Status::Ok() : Status::Error(error);
  }

 private:
  Status ViewWeights(const TensorList& inputs, const ConvGeometry& geometry,
                     BitplaneWeights* weights) const {
    const int64_t channels = geometry.out_c;
    const int64_t bits = int64_t{geometry.kernel_h} * geometry.kernel_w * geometry.group_in();
    KERASQ_RETURN_IF_ERROR(CheckConstant("planes", *inputs[kPlanes], kTfLiteUInt8,
                                         {weight_planes_, channels, (bits + 7) / 8}));
    KERASQ_RETURN_IF_ERROR(CheckConstant("weight_basis", *inputs[kWeightBasis], kTfLiteFloat32,
                                         {{weight_planes_, weight_planes_ + 1}, {1, channels}}));
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("bias", *inputs[kBias], kTfLiteFloat32, {Extent(1, channels)}));
    weights->planes = inputs[kPlanes]->data.uint8;
    weights->basis = inputs[kWeightBasis]->data.f;
    weights->basis_rows = Dimension(*inputs[kWeightBasis], 0);
    weights->basis_cols = Dimension(*inputs[kWeightBasis], 1);
    weights->bias = inputs[kBias]->data.f;
    weights->bias_size = Dimension(*inputs[kBias], 0);
    return Status::Ok();
  }

  Status ViewQuantizer(const TensorList& inputs, const ConvGeometry& geometry,
                       BitplaneWeights* weights) const {
    const int64_t channels = geometry.in_c;
    const TfLiteIntArray* shape = inputs[kThresholds]->dims;
    // How many there may be depends on the planes: the factory checks it.
    const int64_t levels = shape != nullptr && shape->size == 2 ? shape->data[1] : 1;
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("thresholds", *inputs[kThresholds], kTfLiteFloat32, {{1, channels}, levels}));
    weights->num_thresholds = static_cast<int>(levels);
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("direction", *inputs[kDirection], kTfLiteFloat32, {Extent(1, channels)}));
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("level_bits", *inputs[kLevelBits], kTfLiteUInt8, {Extent(levels + 1)}));
    KERASQ_RETURN_IF_ERROR(CheckConstant("input_basis", *inputs[kInputBasis], kTfLiteFloat32,
                                         {Extent(input_planes_, input_planes_ + 1)}));
    weights->thresholds = inputs[kThresholds]->data.f;
    weights->threshold_rows = Dimension(*inputs[kThresholds], 0);
    weights->direction = inputs[kDirection]->data.f;
    weights->direction_size = Dimension(*inputs[kDirection], 0);
    weights->level_bits = inputs[kLevelBits]->data.uint8;
    weights->input_basis = inputs[kInputBasis]->data.f;
    weights->input_basis_size = Dimension(*inputs[kInputBasis], 0);
    return Status::Ok();
  }

  const bool dense_;
  int weight_planes_ = 1, input_planes_ = 0, pad_value_ = 0;
};

}  // namespace

std::unique_ptr<ConvOp> NewBitplaneOp(bool dense) { return std::make_unique<BitplaneOp>(dense); }

}  // namespace kerasq
