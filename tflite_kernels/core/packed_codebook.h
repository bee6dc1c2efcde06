// The codewords and assignments of a layer, unpacked from the file in the order kernels read them.
#ifndef KERASQ_CORE_PACKED_CODEBOOK_H_
#define KERASQ_CORE_PACKED_CODEBOOK_H_

#include <vector>

#include "core/kernels.h"
#include "core/operators.h"

namespace kerasq {

constexpr int kMaxLookUpCodewords = 256;

// Of at most kMaxLookUpCodewords codewords each, by position.
class PackedCodebook {
 public:
  PackedCodebook(const ConvGeometry& geometry, const CodebookWeights& weights);

  int subvector() const { return subvector_; }
  int size() const { return size_; }  // codewords of one codebook
  int subspaces() const { return subspaces_; }
  int blocks() const { return blocks_; }  // of 8 output channels, in one group
  int largest_index() const { return largest_; }

  // [size][subvector]
  const float* codewords(int subspace) const {
    return codewords_.data() + static_cast<int64_t>(shared_ ? 0 : subspace) * size_ * subvector_;
  }

  // Of codebooks that one vector holds (size <= 16): [subvector][16], codewords across.
  bool has_columns() const { return size_ <= kColumns; }
  const float* columns(int subspace) const {
    return columns_.data() + static_cast<int64_t>(shared_ ? 0 : subspace) * kColumns * subvector_;
  }

  // [kernel_w][8 channels] of one row of the kernel; the next sub-space follows. `block` counts
  // through all groups. Channels past the end of a group have index 0.
  const uint8_t* indices(int block, int kernel_row, int subspace) const {
    return indices_.data() +
           ((static_cast<int64_t>(block) * kernel_h_ + kernel_row) * subspaces_ + subspace) *
               kernel_w_ * kLookUpChannels;
  }
  int64_t block_pitch() const {
    return static_cast<int64_t>(kernel_h_) * subspaces_ * kernel_w_ * kLookUpChannels;
  }

 private:
  static constexpr int kColumns = 16;

  const int subvector_, size_, subspaces_, blocks_, kernel_h_, kernel_w_;
  const bool shared_;
  int largest_ = 0;
  std::vector<float> codewords_, columns_;
  std::vector<uint8_t> indices_;
};

}  // namespace kerasq

#endif  // KERASQ_CORE_PACKED_CODEBOOK_H_
