// The input of a convolution of bit planes, packed so that every tap begins a 64-bit word.
#ifndef KERASQ_CORE_BIT_INPUT_H_
#define KERASQ_CORE_BIT_INPUT_H_

#include <cstdint>
#include <vector>

#include "core/kernels.h"
#include "core/operators.h"

namespace kerasq {

// Pixels are [group][plane][tap_words]; unused bits are 0.
class BitInput {
 public:
  BitInput(const ConvGeometry& geometry, const BitplaneWeights& weights);

  int tap_words() const { return tap_words_; }
  int64_t pixel_words() const { return pixel_words_; }
  // Words that a whole input takes.
  int64_t Words(const ConvGeometry& g) const { return pixel_words_ * g.batch * g.in_h * g.in_w; }

  // Pack floats or bits into `words`. Bits that lie so already are not moved.
  const uint64_t* Pack(const ConvGeometry& geometry, const void* input, uint64_t* words,
                       ThreadPool* pool) const;

  // What a padded tap reads of a group.
  const uint64_t* padding(int group) const { return padding_.data() + group * group_words(); }
  int64_t group_words() const { return static_cast<int64_t>(weights_.input_planes) * tap_words_; }

 private:
  void PackFloats(const ConvGeometry& g, const float* x, uint64_t* words) const;
  void PackBits(const ConvGeometry& g, const int32_t* bits, uint64_t* words) const;
  void Relabel(int depth, uint64_t* words) const;

  const Kernels& kernels_;
  const BitplaneWeights weights_;
  const int tap_words_;
  const int64_t pixel_words_;
  std::vector<float> direction_, thresholds_;  // [in_c], of one plane
  std::vector<uint64_t> padding_;              // a pixel of ones with pad_value 1, of zeros else
};

}  // namespace kerasq

#endif  // KERASQ_CORE_BIT_INPUT_H_
