// Sparse kernels of few values, entropy-coded (Deep Compression): decoded when they are packed.
#include <string>
#include <utility>
#include <vector>

#include "core/checks.h"
#include "core/decoded_conv.h"
#include "core/kernels.h"
#include "core/values.h"

namespace kerasq {
namespace {

float CodewordOf(const SparseWeights& w, int code) {
  return FloatOrHalf(w.codeword_data, w.codewords_are_f16, code);
}

std::string CheckSparse(const ConvGeometry& g, const SparseWeights& w) {
  if (w.code.alphabet < 2 || w.code.alphabet > 256) {
    return "codewords must be 2 to 256, not " + std::to_string(w.code.alphabet);
  }
  if (w.gap_code.alphabet < 4 || w.gap_code.alphabet > 256) {
    return "gaps must be of 2 to 8 bits";
  }
  if (CodewordOf(w, 0) != 0.0f) return "the first codeword must be 0: it fills long gaps";
  return CheckOutput(g, w.multiplier_size, w.bias_size);
}

std::string Decode(const ConvGeometry& g, const SparseWeights& w, DecodedKernel* kernel) {
  std::vector<uint8_t> gaps, codes;
  std::string wrong = DecodeHuffman(w.gap_code, w.gaps, w.entries, &gaps);
  if (!wrong.empty()) return "gaps: " + wrong;
  wrong = DecodeHuffman(w.code, w.codes, w.entries, &codes);
  if (!wrong.empty()) return "codes: " + wrong;
  const int64_t row = static_cast<int64_t>(g.taps()) * g.group_in(), weights = row * g.out_c;
  int64_t position = -1;
  for (size_t i = 0; i < gaps.size(); ++i) {
    position += gaps[i] + 1;
    if (position >= weights) {
      return "gaps: entry " + std::to_string(i) + " lies past its " + std::to_string(weights) +
             " weights";
    }
    const int in_row = static_cast<int>(position % row);
    kernel->at(in_row % g.taps(), in_row / g.taps(), static_cast<int>(position / row)) =
        CodewordOf(w, codes[i]);
  }
  return "";
}

}  // namespace

std::unique_ptr<ConvOperator> MakeSparseConv(const ConvGeometry& g, const SparseWeights& w,
                                             std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckSparse(g, w);
  if (error->empty()) *error = CheckIsa();
  if (error->empty()) *error = DecodedKernel::Check(g);
  if (!error->empty()) return nullptr;
  DecodedKernel kernel(g);
  *error = Decode(g, w, &kernel);
  if (!error->empty()) return nullptr;
  return MakeDecodedConv(g, "sparse", std::move(kernel), TransformOf(w));
}

}  // namespace kerasq
