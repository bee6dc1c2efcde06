// The input of a convolution of bit planes, packed so that every tap begins a byte.
#ifndef KERASQ_CORE_BIT_INPUT_H_
#define KERASQ_CORE_BIT_INPUT_H_

#include <cstdint>
#include <vector>

#include "core/kernels.h"
#include "core/operators.h"

namespace kerasq {

// Pixels are [group][plane][tap_bytes]; unused bits are 0.
class BitInput {
 public:
  BitInput(const ConvGeometry& geometry, const BitplaneWeights& weights);

  int tap_bytes() const { return tap_bytes_; }
  int64_t group_bytes() const { return int64_t{weights_.input_planes} * tap_bytes_; }
  // From one pixel to the next.
  int64_t pixel_bytes() const { return in_place_ ? row_bytes_ : groups_ * group_bytes(); }
  // What Pack writes.
  int64_t ScratchBytes(const ConvGeometry& geometry) const;

  // Pack floats or bits into `scratch`. Bits that lie so already are not moved.
  const uint8_t* Pack(const ConvGeometry& geometry, const void* input, uint8_t* scratch,
                      ThreadPool* pool) const;

  // What a padded tap reads of a group.
  const uint8_t* padding(int group) const { return padding_.data() + group * group_bytes(); }

 private:
  void PackFloats(const ConvGeometry& g, const float* x, uint8_t* bits) const;
  void PackBits(const ConvGeometry& g, const int32_t* words, uint8_t* bits) const;
  void Relabel(int depth, uint8_t* bits) const;

  const Kernels& kernels_;
  const BitplaneWeights weights_;
  const int groups_, tap_bytes_;
  const int64_t row_bytes_;  // of a pixel of words
  const bool in_place_;
  std::vector<float> direction_, thresholds_;  // [in_c], of one plane
  std::vector<uint8_t> padding_;               // a pixel of ones with pad_value 1, of zeros else
};

}  // namespace kerasq

#endif  // KERASQ_CORE_BIT_INPUT_H_
