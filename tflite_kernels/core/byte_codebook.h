// Codewords of int8 and their assignments, unpacked from the file for tables of 8 bits.
#ifndef KERASQ_CORE_BYTE_CODEBOOK_H_
#define KERASQ_CORE_BYTE_CODEBOOK_H_

#include <vector>

#include "core/kernels.h"
#include "core/operators.h"
#include "core/values.h"

namespace kerasq {

// Codebooks of at most 256 codewords, by position. Two elements of a sub-vector lie together.
class ByteCodebook {
 public:
  ByteCodebook(const ConvGeometry& geometry, const CodebookWeights& weights);

  int subvector() const { return subvector_; }
  int pairs() const { return CeilDiv(subvector_, 2); }
  int size() const { return size_; }
  int lanes() const { return CeilDiv(size_, kEntryLanes) * kEntryLanes; }
  int subspaces() const { return subspaces_; }
  int largest_index() const { return largest_; }

  // [pairs][lanes][2]; codewords past the last, and an element past an odd sub-vector, are 0.
  const int16_t* columns(int subspace) const {
    return columns_.data() + (shared_ ? 0 : subspace) * ColumnsSize();
  }
  int64_t column_stride() const { return int64_t{2} * lanes(); }

  // [subspace][tap][8] of a block of 8 output channels. `block` counts through all groups; channels
  // past the end of a group have index 0.
  const uint8_t* indices(int block) const { return indices_.data() + block * block_pitch(); }
  int64_t block_pitch() const { return static_cast<int64_t>(subspaces_) * taps_ * kLookUpChannels; }
  int blocks() const { return blocks_; }  // in one group

  // Codes of one pixel's channels, as many as `channels`, side by side -> [subspace][pairs][2].
  void PadCodes(const int16_t* codes, int channels, int16_t* padded) const;
  int64_t padded_codes() const { return int64_t{2} * pairs() * subspaces_; }

 private:
  int64_t ColumnsSize() const { return column_stride() * pairs(); }

  const int subvector_, size_, subspaces_, taps_, blocks_;
  const bool shared_;
  int largest_ = 0;
  std::vector<int16_t> columns_;
  std::vector<uint8_t> indices_;
};

// The smallest and the largest code of an input.
inline int LowestCode(const ByteTables& t) { return -128 - t.zero_point; }
inline int HighestCode(const ByteTables& t) { return 127 - t.zero_point; }

}  // namespace kerasq

#endif  // KERASQ_CORE_BYTE_CODEBOOK_H_
