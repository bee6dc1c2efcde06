#include "core/operators.h"

#include <utility>

#include "core/checks.h"
#include "core/decoded_conv.h"
#include "core/kernels.h"
#include "core/operator_classes.h"

namespace kerasq {

std::unique_ptr<ConvOperator> MakeBitplaneConv(const ConvGeometry& g, const BitplaneWeights& w,
                                               std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckBitplane(g, w);
  if (error->empty()) *error = CheckIsa();
  if (!error->empty()) return nullptr;
  const bool floats = !w.bits_in && w.output_thresholds == nullptr;
  if (g.group_in() == 1 && floats) return MakeDepthwiseConv(g, w);
  return w.input_planes == 0 ? MakeWeightOnlyConv(g, w) : MakeBinaryConv(g, w);
}

std::unique_ptr<ConvOperator> MakeCodebookConv(const ConvGeometry& g, const CodebookWeights& w,
                                               std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckCodebook(g, w);
  if (error->empty()) *error = CheckIsa();
  if (!error->empty()) return nullptr;
  if (w.codewords > kMaxLookUpCodewords || (w.by_channel && g.taps() > 1)) {
    *error = DecodedKernel::Check(g);
    if (!error->empty()) return nullptr;
    const auto kernel = DecodeCodebook(g, w, error);
    return kernel ? MakeDecodedConv(g, "codebook", std::move(*kernel), TransformOf(w)) : nullptr;
  }
  PackedCodebook book(g, w);
  if (book.largest_index() >= w.codewords) {
    *error = PastCodebook(book.largest_index(), w.codewords);
    return nullptr;
  }
  if (g.group_in() == 1) return MakeDepthwiseConv(g, w, book);
  return MakeLookUpOrGemmConv(g, w, std::move(book));
}

std::unique_ptr<ConvOperator> MakeByteTableConv(const ConvGeometry& g, const CodebookWeights& w,
                                                const ByteTables& tables, std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckCodebook(g, w);
  if (error->empty()) *error = CheckByteTables(g, w, tables);
  if (error->empty()) *error = CheckIsa();
  if (!error->empty()) return nullptr;
  ByteCodebook book(g, w);
  if (book.largest_index() >= w.codewords) {
    *error = PastCodebook(book.largest_index(), w.codewords);
    return nullptr;
  }
  return MakeByteTables(g, w, tables, std::move(book));
}

}  // namespace kerasq
