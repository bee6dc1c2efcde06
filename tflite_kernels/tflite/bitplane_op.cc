// KerasqBitplaneConv2D and KerasqBitplaneDense: options and tensors.
#include "core/checks.h"
#include "tflite/conv_op.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

class BitplaneOp : public ConvOp {
 public:
  explicit BitplaneOp(bool dense) : dense_(dense) {}

 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, dense_, conv));
    KERASQ_RETURN_IF_ERROR(options.Get("weight_planes", 1, kMaxWeightPlanes, &weight_planes_));
    KERASQ_RETURN_IF_ERROR(options.Get("input_planes", 0, kMaxInputPlanes, &input_planes_));
    KERASQ_RETURN_IF_ERROR(options.GetOr("bits_in", 0, 0, kMaxOption, &conv->bits_in));
    int bits_out;
    KERASQ_RETURN_IF_ERROR(options.GetOr("bits_out", 0, 0, 1, &bits_out));
    bits_in_ = conv->bits_in > 0;
    bits_out_ = conv->bits_out = bits_out == 1;
    return dense_ ? Status::Ok() : options.Get("pad_value", 0, 1, &pad_value_);
  }

  size_t NumInputs() const override {
    const bool thresholds = HasThresholds(), basis = input_planes_ > 0 && !bits_out_;
    return 2 + 2 + (thresholds ? 3 : 0) + (basis ? 1 : 0);
  }

  // In the order of the file: planes, then of a float output its scales and bias; then of a float
  // input its quantizer; then the scales of the input's planes, or of an output of bits its
  // thresholds.
  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    BitplaneWeights weights = {};
    weights.weight_planes = weight_planes_;
    weights.input_planes = input_planes_;
    weights.pad_value = pad_value_;
    weights.activation = activation;
    weights.bits_in = bits_in_;
    const TfLiteTensor* const* next = inputs.data() + 1;
    KERASQ_RETURN_IF_ERROR(ViewPlanes(**next++, geometry, &weights));
    if (!bits_out_) {
      KERASQ_RETURN_IF_ERROR(ViewScales(next, geometry, &weights));
      next += 2;
    }
    if (HasThresholds()) {
      KERASQ_RETURN_IF_ERROR(ViewQuantizer(next, geometry, &weights));
      next += 3;
    }
    if (bits_out_) {
      KERASQ_RETURN_IF_ERROR(ViewOutputBits(next, geometry, &weights));
    } else if (input_planes_ > 0) {
      KERASQ_RETURN_IF_ERROR(ViewInputBasis(**next, &weights));
    }
    std::string error;
    *packed = MakeBitplaneConv(geometry, weights, &error);
    return *packed ? Status::Ok() : Status::Error(error);
  }

 private:
  bool HasThresholds() const { return input_planes_ > 0 && !bits_in_; }

  Status ViewPlanes(const TfLiteTensor& planes, const ConvGeometry& geometry,
                    BitplaneWeights* weights) const {
    const int64_t bits = int64_t{geometry.kernel_h} * geometry.kernel_w * geometry.group_in();
    weights->planes = planes.data.uint8;
    return CheckConstant("planes", planes, kTfLiteUInt8,
                         {weight_planes_, geometry.out_c, (bits + 7) / 8});
  }

  // inputs: weight_basis, bias.
  Status ViewScales(const TfLiteTensor* const* inputs, const ConvGeometry& geometry,
                    BitplaneWeights* weights) const {
    const TfLiteTensor &basis = *inputs[0], &bias = *inputs[1];
    const int64_t channels = geometry.out_c;
    KERASQ_RETURN_IF_ERROR(CheckConstant("weight_basis", basis, kTfLiteFloat32,
                                         {{weight_planes_, weight_planes_ + 1}, {1, channels}}));
    KERASQ_RETURN_IF_ERROR(CheckConstant("bias", bias, kTfLiteFloat32, {Extent(1, channels)}));
    weights->basis = basis.data.f;
    weights->basis_rows = Dimension(basis, 0);
    weights->basis_cols = Dimension(basis, 1);
    weights->bias = bias.data.f;
    weights->bias_size = Dimension(bias, 0);
    return Status::Ok();
  }

  // inputs: thresholds, direction, level_bits.
  Status ViewQuantizer(const TfLiteTensor* const* inputs, const ConvGeometry& geometry,
                       BitplaneWeights* weights) const {
    const TfLiteTensor &thresholds = *inputs[0], &direction = *inputs[1], &level_bits = *inputs[2];
    const int64_t channels = geometry.in_c;
    const TfLiteIntArray* shape = thresholds.dims;
    // How many there may be depends on the planes: the factory checks it.
    const int64_t levels = shape != nullptr && shape->size == 2 ? shape->data[1] : 1;
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("thresholds", thresholds, kTfLiteFloat32, {{1, channels}, levels}));
    weights->num_thresholds = static_cast<int>(levels);
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("direction", direction, kTfLiteFloat32, {Extent(1, channels)}));
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("level_bits", level_bits, kTfLiteUInt8, {Extent(levels + 1)}));
    weights->thresholds = thresholds.data.f;
    weights->threshold_rows = Dimension(thresholds, 0);
    weights->direction = direction.data.f;
    weights->direction_size = Dimension(direction, 0);
    weights->level_bits = level_bits.data.uint8;
    return Status::Ok();
  }

  Status ViewInputBasis(const TfLiteTensor& basis, BitplaneWeights* weights) const {
    KERASQ_RETURN_IF_ERROR(CheckConstant("input_basis", basis, kTfLiteFloat32,
                                         {Extent(input_planes_, input_planes_ + 1)}));
    weights->input_basis = basis.data.f;
    weights->input_basis_size = Dimension(basis, 0);
    return Status::Ok();
  }

  // inputs: output_thresholds, output_direction.
  Status ViewOutputBits(const TfLiteTensor* const* inputs, const ConvGeometry& geometry,
                        BitplaneWeights* weights) const {
    const TfLiteTensor &thresholds = *inputs[0], &direction = *inputs[1];
    const Extent channels(1, geometry.out_c);
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("output_thresholds", thresholds, kTfLiteInt32, {channels}));
    KERASQ_RETURN_IF_ERROR(CheckConstant("output_direction", direction, kTfLiteInt8, {channels}));
    weights->output_thresholds = static_cast<const int32_t*>(thresholds.data.data);
    weights->output_thresholds_size = Dimension(thresholds, 0);
    weights->output_direction = static_cast<const int8_t*>(direction.data.data);
    weights->output_direction_size = Dimension(direction, 0);
    return Status::Ok();
  }

  const bool dense_;
  int weight_planes_ = 1, input_planes_ = 0, pad_value_ = 0;
  bool bits_in_ = false, bits_out_ = false;
};

}  // namespace

std::unique_ptr<ConvOp> NewBitplaneOp(bool dense) { return std::make_unique<BitplaneOp>(dense); }

}  // namespace kerasq
