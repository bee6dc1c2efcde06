#include "core/operators.h"

#include <utility>

#include "core/checks.h"
#include "core/kernels.h"
#include "core/operator_classes.h"

namespace kerasq {

std::unique_ptr<ConvOperator> MakeBitplaneConv(const ConvGeometry& g, const BitplaneWeights& w,
                                               std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckBitplane(g, w);
  if (error->empty()) *error = CheckIsa();
  if (!error->empty()) return nullptr;
  if (g.group_in() == 1) return MakeDepthwiseConv(g, w);
  return w.input_planes == 0 ? MakeWeightOnlyConv(g, w) : MakeBinaryConv(g, w);
}

std::unique_ptr<ConvOperator> MakeCodebookConv(const ConvGeometry& g, const CodebookWeights& w,
                                               std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckCodebook(g, w);
  if (error->empty()) *error = CheckIsa();
  if (!error->empty()) return nullptr;
  PackedCodebook book(g, w);
  if (book.largest_index() >= w.codewords) {
    *error = "an index is " + std::to_string(book.largest_index()) + ", past its codebook of " +
             std::to_string(w.codewords) + " codewords";
    return nullptr;
  }
  if (g.group_in() == 1) return MakeDepthwiseConv(g, w, book);
  return MakeLookUpOrGemmConv(g, w, std::move(book));
}

}  // namespace kerasq
