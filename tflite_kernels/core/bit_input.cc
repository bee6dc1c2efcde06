#include "core/bit_input.h"

#include <algorithm>
#include <cstring>

#include "core/values.h"

namespace kerasq {
namespace {

uint64_t LowBits(int count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

bool WordBit(const int32_t* words, int i) {
  return static_cast<uint32_t>(words[i / kWordChannels]) >> (i % kWordChannels) & 1;
}

}  // namespace

BitInput::BitInput(const ConvGeometry& g, const BitplaneWeights& w)
    : kernels_(SelectKernels()),
      weights_(w),
      tap_words_(CeilDiv(g.group_in(), 64)),
      pixel_words_(static_cast<int64_t>(w.input_planes) * g.groups * tap_words_),
      padding_(static_cast<size_t>(pixel_words_)) {
  if (w.bits_in) {
    const std::vector<int32_t> ones(BitWords(g.in_c), -1);
    if (w.pad_value == 1) PackBits(g, ones.data(), padding_.data());
    return;
  }
  for (int c = 0; w.input_planes == 1 && c < g.in_c; ++c) {
    direction_.push_back(Broadcast(w.direction, w.direction_size, c));
    thresholds_.push_back(Broadcast(w.thresholds, w.threshold_rows, c));
  }
  const std::vector<float> ones(g.in_c, 1.0f);
  if (w.pad_value == 1) PackFloats(g, ones.data(), padding_.data());
}

const uint64_t* BitInput::Pack(const ConvGeometry& g, const void* input, uint64_t* words,
                               ThreadPool* pool) const {
  const bool aligned = reinterpret_cast<uintptr_t>(input) % sizeof(uint64_t) == 0;
  if (weights_.bits_in && g.groups == 1 && g.in_c % 64 == 0 && aligned) {
    return static_cast<const uint64_t*>(input);
  }
  const int64_t source_words = BitWords(g.in_c);
  pool->ParallelFor(g.batch * g.in_h, [&](int row, int) {
    for (int64_t x = static_cast<int64_t>(row) * g.in_w; x < (row + 1LL) * g.in_w; ++x) {
      uint64_t* pixel = words + x * pixel_words_;
      if (weights_.bits_in) {
        PackBits(g, static_cast<const int32_t*>(input) + x * source_words, pixel);
      } else {
        PackFloats(g, static_cast<const float*>(input) + x * g.in_c, pixel);
      }
    }
  });
  return words;
}

void BitInput::PackFloats(const ConvGeometry& g, const float* x, uint64_t* words) const {
  const int depth = g.group_in(), planes = weights_.input_planes;
  for (int group = 0; group < g.groups; ++group, words += group_words()) {
    const int first = group * depth;
    if (planes == 1) {
      kernels_.pack_signs(x + first, direction_.data() + first, thresholds_.data() + first, depth,
                          words);
      if (weights_.level_bits[0] == weights_.level_bits[1] || weights_.level_bits[0] == 1) {
        Relabel(depth, words);
      }
      continue;
    }
    std::fill_n(words, group_words(), 0);
    for (int i = 0; i < depth; ++i) {
      const uint8_t level = weights_.level_bits[InputCode(weights_, x[first + i], first + i)];
      for (int j = 0; j < planes; ++j) {
        words[j * tap_words_ + i / 64] |= static_cast<uint64_t>(level >> j & 1) << (i % 64);
      }
    }
  }
}

// One plane whose levels are not -1 below and +1 above the threshold.
void BitInput::Relabel(int depth, uint64_t* words) const {
  const uint64_t below = weights_.level_bits[0] ? ~uint64_t{0} : 0;
  const uint64_t above = weights_.level_bits[1] ? ~uint64_t{0} : 0;
  for (int i = 0; i < tap_words_; ++i) {
    words[i] = ((words[i] & above) | (~words[i] & below)) & LowBits(depth - 64 * i);
  }
}

// All the words of a pixel at once, or of several groups bit by bit.
void BitInput::PackBits(const ConvGeometry& g, const int32_t* bits, uint64_t* words) const {
  const int depth = g.group_in();
  std::fill_n(words, pixel_words_, 0);
  if (g.groups == 1) {
    std::memcpy(words, bits, sizeof(*bits) * BitWords(depth));
    words[tap_words_ - 1] &= LowBits(depth - 64 * (tap_words_ - 1));
    return;
  }
  for (int c = 0; c < g.in_c; ++c) {
    const int i = c % depth;
    words[c / depth * tap_words_ + i / 64] |= static_cast<uint64_t>(WordBit(bits, c)) << (i % 64);
  }
}

}  // namespace kerasq
