#include "core/bit_input.h"

#include <algorithm>

#include "core/values.h"

namespace kerasq {
namespace {

bool WordBit(const int32_t* words, int i) {
  return static_cast<uint32_t>(words[i / kWordChannels]) >> (i % kWordChannels) & 1;
}

}  // namespace

BitInput::BitInput(const ConvGeometry& g, const BitplaneWeights& w)
    : kernels_(SelectKernels()),
      weights_(w),
      groups_(g.groups),
      tap_bytes_(CeilDiv(g.group_in(), 8)),
      row_bytes_(int64_t{BitWords(g.in_c)} * sizeof(int32_t)),
      in_place_(w.bits_in && g.groups == 1 && g.in_c % 8 == 0),
      padding_(static_cast<size_t>(g.groups * group_bytes())) {
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

int64_t BitInput::ScratchBytes(const ConvGeometry& g) const {
  return in_place_ ? 0 : pixel_bytes() * g.batch * g.in_h * g.in_w;
}

const uint8_t* BitInput::Pack(const ConvGeometry& g, const void* input, uint8_t* scratch,
                              ThreadPool* pool) const {
  if (in_place_) return static_cast<const uint8_t*>(input);
  pool->ParallelFor(g.batch * g.in_h, [&](int row, int) {
    for (int64_t x = static_cast<int64_t>(row) * g.in_w; x < (row + 1LL) * g.in_w; ++x) {
      uint8_t* pixel = scratch + x * pixel_bytes();
      if (weights_.bits_in) {
        PackBits(g, static_cast<const int32_t*>(input) + x * BitWords(g.in_c), pixel);
      } else {
        PackFloats(g, static_cast<const float*>(input) + x * g.in_c, pixel);
      }
    }
  });
  return scratch;
}

void BitInput::PackFloats(const ConvGeometry& g, const float* x, uint8_t* bits) const {
  const int depth = g.group_in(), planes = weights_.input_planes;
  for (int group = 0; group < g.groups; ++group, bits += group_bytes()) {
    const int first = group * depth;
    if (planes == 1) {
      kernels_.pack_signs(x + first, direction_.data() + first, thresholds_.data() + first, depth,
                          bits);
      if (weights_.level_bits[0] == weights_.level_bits[1] || weights_.level_bits[0] == 1) {
        Relabel(depth, bits);
      }
      continue;
    }
    std::fill_n(bits, group_bytes(), 0);
    for (int i = 0; i < depth; ++i) {
      const uint8_t level = weights_.level_bits[InputCode(weights_, x[first + i], first + i)];
      for (int j = 0; j < planes; ++j) {
        bits[j * tap_bytes_ + i / 8] |= static_cast<uint8_t>((level >> j & 1) << (i % 8));
      }
    }
  }
}

// One plane whose levels are not -1 below and +1 above the threshold.
void BitInput::Relabel(int depth, uint8_t* bits) const {
  const int below = weights_.level_bits[0] ? 255 : 0, above = weights_.level_bits[1] ? 255 : 0;
  for (int i = 0; i < tap_bytes_; ++i) {
    const int used = depth - 8 * i >= 8 ? 255 : (1 << (depth - 8 * i)) - 1;
    bits[i] = static_cast<uint8_t>(((bits[i] & above) | (~bits[i] & below)) & used);
  }
}

void BitInput::PackBits(const ConvGeometry& g, const int32_t* words, uint8_t* bits) const {
  const int depth = g.group_in();
  std::fill_n(bits, g.groups * group_bytes(), 0);
  for (int c = 0; c < g.in_c; ++c) {
    const int i = c % depth;
    bits[c / depth * tap_bytes_ + i / 8] |= static_cast<uint8_t>(WordBit(words, c) << (i % 8));
  }
}

}  // namespace kerasq
