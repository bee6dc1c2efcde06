// KerasqCodebookConv2D and KerasqCodebookDense: options and tensors.
#include "core/checks.h"
#include "tflite/conv_op.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

constexpr int kMaxSubvector = 1 << 20;

constexpr int kByChannel = 1;
constexpr int kZeroPointBias = 128;  // options are not negative

// With tables of 8 bits there is one input more.
enum Input { kCodewords = 1, kIndices, kMultiplier, kBias, kNumInputs, kInverseScale = kNumInputs };

// Bits of an index into `codewords`, at least one.
int IndexBits(int codewords) {
  int bits = 1;
  while ((1 << bits) < codewords) ++bits;
  return bits;
}

class CodebookOp : public ConvOp {
 public:
  explicit CodebookOp(bool dense) : dense_(dense) {}

 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, dense_, conv));
    KERASQ_RETURN_IF_ERROR(options.Get("subvector", 1, kMaxSubvector, &subvector_));
    KERASQ_RETURN_IF_ERROR(options.Get("codewords", 1, kMaxCodewords, &codewords_));
    const int bits = IndexBits(codewords_);
    KERASQ_RETURN_IF_ERROR(options.Get("bits", bits, bits, &bits_));
    KERASQ_RETURN_IF_ERROR(options.Get("order", 0, 1, &order_));
    KERASQ_RETURN_IF_ERROR(options.Get("tables", 0, 1, &byte_tables_));
    if (!byte_tables_) return Status::Ok();
    KERASQ_RETURN_IF_ERROR(options.Get("input_zero_point", 0, 255, &tables_.zero_point));
    tables_.zero_point -= kZeroPointBias;
    KERASQ_RETURN_IF_ERROR(options.Get("table_shift", 0, 31, &tables_.shift));
    return options.Get("table_multiplier", 1, 32767, &tables_.multiplier);
  }

  size_t NumInputs() const override { return byte_tables_ ? kNumInputs + 1 : kNumInputs; }

  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    const TfLiteTensor &codewords = *inputs[kCodewords], &indices = *inputs[kIndices];
    const int64_t channels = geometry.out_c;
    const int64_t taps = int64_t{geometry.kernel_h} * geometry.kernel_w;
    const int64_t positions = order_ == kByChannel ? 1 : taps;
    const int64_t length = order_ == kByChannel ? taps * geometry.group_in() : geometry.group_in();
    const int64_t subspaces = (length + subvector_ - 1) / subvector_;
    const bool half = codewords.type == kTfLiteFloat16;
    const TfLiteType type = byte_tables_ ? kTfLiteInt8 : half ? kTfLiteFloat16 : kTfLiteFloat32;
    KERASQ_RETURN_IF_ERROR(
        CheckConstant("codewords", codewords, type, {{1, subspaces}, codewords_, subvector_}));
    KERASQ_RETURN_IF_ERROR(CheckConstant("indices", indices, kTfLiteUInt8,
                                         {positions, subspaces, (channels * bits_ + 7) / 8}));
    CodebookWeights weights = {};
    KERASQ_RETURN_IF_ERROR(
        ReadOutput(*inputs[kMultiplier], *inputs[kBias], geometry, activation, &weights));
    weights.by_channel = order_ == kByChannel;
    weights.subvector = subvector_;
    weights.codewords = codewords_;
    weights.bits = bits_;
    weights.codebooks = Dimension(codewords, 0);
    weights.subspaces = Dimension(indices, 1);
    weights.codeword_data = codewords.data.data;
    weights.codewords_are_f16 = half;
    weights.indices = indices.data.uint8;
    std::string error;
    if (byte_tables_) {
      const TfLiteTensor& inverse_scale = *inputs[kInverseScale];
      KERASQ_RETURN_IF_ERROR(CheckConstant("inverse_scale", inverse_scale, kTfLiteFloat32, {1}));
      ByteTables tables = tables_;
      tables.inverse_scale = inverse_scale.data.f[0];
      *packed = MakeByteTableConv(geometry, weights, tables, &error);
    } else {
      *packed = MakeCodebookConv(geometry, weights, &error);
    }
    return *packed ? Status::Ok() : Status::Error(error);
  }

 private:
  const bool dense_;
  int subvector_ = 1, codewords_ = 1, bits_ = 1, order_ = 0, byte_tables_ = 0;
  ByteTables tables_ = {};  // but for the scale, which is a tensor
};

}  // namespace

std::unique_ptr<ConvOp> NewCodebookOp(bool dense) { return std::make_unique<CodebookOp>(dense); }

}  // namespace kerasq
