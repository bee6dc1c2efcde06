// Floats to bits, and the maximum of bits in a window.
#include <algorithm>
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/kernels.h"
#include "core/operators.h"
#include "core/values.h"

namespace kerasq {
namespace {

class Bitpack : public ConvOperator {
 public:
  Bitpack(const ConvGeometry& g, const BitpackWeights& w)
      : kernels_(SelectKernels()), name_(std::string("bitpack_") + kernels_.isa) {
    for (int c = 0; c < g.in_c; ++c) {
      direction_.push_back(Broadcast(w.direction, w.direction_size, c));
      thresholds_.push_back(Broadcast(w.thresholds, w.thresholds_size, c));
    }
  }

  size_t ScratchBytes(const ConvGeometry&, int) const override { return 0; }

  void Run(const ConvGeometry& g, const void* input, void* output, void*,
           ThreadPool* pool) const override {
    pool->ParallelFor(g.batch * g.in_h, [&](int row, int) {
      for (int64_t x = static_cast<int64_t>(row) * g.in_w; x < (row + 1LL) * g.in_w; ++x) {
        PackPixel(g.in_c, static_cast<const float*>(input) + x * g.in_c,
                  static_cast<int32_t*>(output) + x * BitWords(g.in_c));
      }
    });
  }

  const char* kernel_name(const ConvGeometry&) const override { return name_.c_str(); }

 private:
  void PackPixel(int channels, const float* x, int32_t* words) const {
    words[BitWords(channels) - 1] = 0;  // the bytes past the channels
    kernels_.pack_signs(x, direction_.data(), thresholds_.data(), channels,
                        reinterpret_cast<uint8_t*>(words));
  }

  const Kernels& kernels_;
  const std::string name_;
  std::vector<float> direction_, thresholds_;  // [in_c]
};

// The largest of bits is their or, the smallest their and; with `minimum` all ones where the
// smallest is wanted, both are ((x ^ minimum) | ...) ^ minimum. Padding takes no part.
class BitMaxPool : public ConvOperator {
 public:
  BitMaxPool(const ConvGeometry& g, const BitMaxPoolWeights& w)
      : minimum_(w.minimum, w.minimum + BitWords(g.in_c)), used_(minimum_.size(), ~uint32_t{0}) {
    if (g.in_c % kWordChannels != 0) used_.back() = (uint32_t{1} << g.in_c % kWordChannels) - 1;
  }

  size_t ScratchBytes(const ConvGeometry&, int) const override { return 0; }

  void Run(const ConvGeometry& g, const void* input, void* output, void*,
           ThreadPool* pool) const override {
    const int64_t words = BitWords(g.in_c);
    pool->ParallelFor(g.batch * g.out_h, [&](int row, int) {
      const int64_t image = static_cast<int64_t>(row / g.out_h) * g.in_h * g.in_w * words;
      for (int ox = 0; ox < g.out_w; ++ox) {
        Pixel(g, static_cast<const int32_t*>(input) + image, row % g.out_h, ox,
              static_cast<int32_t*>(output) + (static_cast<int64_t>(row) * g.out_w + ox) * words);
      }
    });
  }

  const char* kernel_name(const ConvGeometry&) const override { return "bit_max_pool"; }

 private:
  void Pixel(const ConvGeometry& g, const int32_t* image, int oy, int ox, int32_t* output) const {
    const int top = oy * g.stride_h - g.pad_top, left = ox * g.stride_w - g.pad_left;
    const int words = static_cast<int>(minimum_.size());
    std::fill_n(output, words, 0);
    for (int y = std::max(top, 0); y < std::min(top + g.kernel_h, g.in_h); ++y) {
      for (int x = std::max(left, 0); x < std::min(left + g.kernel_w, g.in_w); ++x) {
        const int32_t* pixel = image + (static_cast<int64_t>(y) * g.in_w + x) * words;
        for (int i = 0; i < words; ++i) output[i] |= pixel[i] ^ minimum_[i];
      }
    }
    for (int i = 0; i < words; ++i) output[i] = (output[i] ^ minimum_[i]) & used_[i];
  }

  const std::vector<int32_t> minimum_;
  std::vector<uint32_t> used_;  // the bits of channels
};

}  // namespace

std::unique_ptr<ConvOperator> MakeBitpack(const ConvGeometry& g, const BitpackWeights& w,
                                          std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty()) *error = CheckBitpack(g, w);
  if (error->empty()) *error = CheckIsa();
  return error->empty() ? std::make_unique<Bitpack>(g, w) : nullptr;
}

std::unique_ptr<ConvOperator> MakeBitMaxPool(const ConvGeometry& g, const BitMaxPoolWeights& w,
                                             std::string* error) {
  *error = CheckGeometry(g);
  return error->empty() ? std::make_unique<BitMaxPool>(g, w) : nullptr;
}

}  // namespace kerasq
