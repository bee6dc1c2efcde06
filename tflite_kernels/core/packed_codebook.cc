#include "core/packed_codebook.h"

#include <algorithm>

#include "core/values.h"

namespace kerasq {

PackedCodebook::PackedCodebook(const ConvGeometry& g, const CodebookWeights& w)
    : subvector_(w.subvector),
      size_(w.codewords),
      subspaces_(w.subspaces),
      blocks_(CeilDiv(g.group_out(), kLookUpChannels)),
      kernel_h_(g.kernel_h),
      kernel_w_(g.kernel_w),
      shared_(w.codebooks == 1),
      codewords_(static_cast<size_t>(w.codebooks) * w.codewords * w.subvector),
      indices_(static_cast<size_t>(block_pitch()) * blocks_ * g.groups) {
  for (size_t i = 0; i < codewords_.size(); ++i) {
    codewords_[i] = CodewordElement(w, static_cast<int64_t>(i));
  }
  if (has_columns()) {
    columns_.resize(static_cast<size_t>(w.codebooks) * kColumns * subvector_);
    for (size_t i = 0; i < codewords_.size(); ++i) {
      const size_t codeword = i / subvector_ % size_, book = i / subvector_ / size_;
      columns_[(book * subvector_ + i % subvector_) * kColumns + codeword] = codewords_[i];
    }
  }
  const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
  for (int t = 0; t < g.taps(); ++t) {
    for (int m = 0; m < w.subspaces; ++m) {
      const uint8_t* row = w.indices + (static_cast<int64_t>(t) * w.subspaces + m) * row_bytes;
      for (int c = 0; c < g.out_c; ++c) {
        const auto index = static_cast<uint8_t>(StreamElement(row, c, w.bits));
        const int in_group = c % g.group_out();
        const int block = c / g.group_out() * blocks_ + in_group / kLookUpChannels;
        const int64_t tap_row = indices(block, t / g.kernel_w, m) - indices_.data();
        indices_[tap_row + t % g.kernel_w * kLookUpChannels + in_group % kLookUpChannels] = index;
        largest_ = std::max<int>(largest_, index);
      }
    }
  }
}

}  // namespace kerasq
