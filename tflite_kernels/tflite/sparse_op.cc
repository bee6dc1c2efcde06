// KerasqSparseConv2D and KerasqSparseDense: options and tensors.
#include "tflite/conv_op.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

constexpr int kMaxEntries = 1 << 30;

enum Input {
  kCodewords = 1,
  kGaps,
  kGapLengths,
  kCodes,
  kCodeLengths,
  kMultiplier,
  kBias,
  kNumInputs
};

// The Huffman codes of one stream and the lengths of the symbols' codes.
Status ReadStream(const std::string& name, const TfLiteTensor& stream, const TfLiteTensor& lengths,
                  int alphabet, HuffmanCode* code, HuffmanStream* read) {
  KERASQ_ENSURE(stream.dims != nullptr && stream.dims->size == 1, name, " has shape ",
                ShapeText(stream), ", expected one dimension");
  const int size = Dimension(stream, 0);
  KERASQ_RETURN_IF_ERROR(CheckConstant(name.c_str(), stream, kTfLiteUInt8, {size}));
  KERASQ_RETURN_IF_ERROR(CheckConstant((name + "' lengths").c_str(), lengths, kTfLiteUInt8,
                                       {(int64_t{alphabet} + 1) / 2}));
  *code = {lengths.data.uint8, alphabet};
  *read = {stream.data.uint8, size};
  return Status::Ok();
}

class SparseOp : public ConvOp {
 public:
  explicit SparseOp(bool dense) : dense_(dense) {}

 protected:
  Status ReadOptions(const Options& options, ConvOptions* conv) override {
    KERASQ_RETURN_IF_ERROR(ReadConvOptions(options, dense_, conv));
    KERASQ_RETURN_IF_ERROR(options.Get("channels_in", 1, kMaxOption, &channels_in_));
    KERASQ_RETURN_IF_ERROR(options.Get("codewords", 2, 256, &codewords_));
    KERASQ_RETURN_IF_ERROR(options.Get("gap_bits", 2, 8, &gap_bits_));
    return options.Get("entries", 0, kMaxEntries, &entries_);
  }

  size_t NumInputs() const override { return kNumInputs; }

  Status Pack(const TensorList& inputs, const ConvGeometry& geometry, Activation activation,
              std::unique_ptr<ConvOperator>* packed) const override {
    KERASQ_RETURN_IF_ERROR(CheckChannelsIn(channels_in_, geometry));
    const TfLiteTensor& codewords = *inputs[kCodewords];
    const bool half = codewords.type == kTfLiteFloat16;
    KERASQ_RETURN_IF_ERROR(CheckConstant("codewords", codewords,
                                         half ? kTfLiteFloat16 : kTfLiteFloat32, {codewords_}));
    SparseWeights weights = {};
    weights.codeword_data = codewords.data.data;
    weights.codewords_are_f16 = half;
    weights.entries = entries_;
    KERASQ_RETURN_IF_ERROR(ReadStream("gaps", *inputs[kGaps], *inputs[kGapLengths], 1 << gap_bits_,
                                      &weights.gap_code, &weights.gaps));
    KERASQ_RETURN_IF_ERROR(ReadStream("codes", *inputs[kCodes], *inputs[kCodeLengths], codewords_,
                                      &weights.code, &weights.codes));
    KERASQ_RETURN_IF_ERROR(
        ReadOutput(*inputs[kMultiplier], *inputs[kBias], geometry, activation, &weights));
    std::string error;
    *packed = MakeSparseConv(geometry, weights, &error);
    return *packed ? Status::Ok() : Status::Error(error);
  }

 private:
  const bool dense_;
  int channels_in_ = 1, codewords_ = 2, gap_bits_ = 2, entries_ = 0;
};

}  // namespace

std::unique_ptr<ConvOp> NewSparseOp(bool dense) { return std::make_unique<SparseOp>(dense); }

}  // namespace kerasq
