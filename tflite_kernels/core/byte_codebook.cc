#include "core/byte_codebook.h"

#include <algorithm>

namespace kerasq {

ByteCodebook::ByteCodebook(const ConvGeometry& g, const CodebookWeights& w)
    : subvector_(w.subvector),
      size_(w.codewords),
      subspaces_(w.subspaces),
      taps_(g.taps()),
      blocks_(CeilDiv(g.group_out(), kLookUpChannels)),
      shared_(w.codebooks == 1),
      columns_(static_cast<size_t>(w.codebooks) * ColumnsSize()),
      indices_(static_cast<size_t>(block_pitch()) * blocks_ * g.groups) {
  const int8_t* codeword = static_cast<const int8_t*>(w.codeword_data);
  for (int book = 0; book < w.codebooks; ++book) {
    int16_t* columns = columns_.data() + book * ColumnsSize();
    for (int k = 0; k < size_; ++k) {
      for (int j = 0; j < subvector_; ++j) {
        columns[j / 2 * column_stride() + 2 * k + j % 2] = *codeword++;
      }
    }
  }
  const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
  for (int t = 0; t < taps_; ++t) {
    for (int m = 0; m < subspaces_; ++m) {
      const uint8_t* row = w.indices + (static_cast<int64_t>(t) * subspaces_ + m) * row_bytes;
      for (int c = 0; c < g.out_c; ++c) {
        const auto index = static_cast<uint8_t>(StreamElement(row, c, w.bits));
        const int in_group = c % g.group_out();
        const int block = c / g.group_out() * blocks_ + in_group / kLookUpChannels;
        const int64_t place = static_cast<int64_t>(m) * taps_ + t;
        indices_[block * block_pitch() + place * kLookUpChannels + in_group % kLookUpChannels] =
            index;
        largest_ = std::max<int>(largest_, index);
      }
    }
  }
}

void ByteCodebook::PadCodes(const int16_t* codes, int channels, int16_t* padded) const {
  const int width = 2 * pairs();
  for (int m = 0; m < subspaces_; ++m, padded += width) {
    const int length = std::min(subvector_, channels - m * subvector_);
    std::copy(codes + m * subvector_, codes + m * subvector_ + length, padded);
    std::fill(padded + length, padded + width, int16_t{0});
  }
}

}  // namespace kerasq
