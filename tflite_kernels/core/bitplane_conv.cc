// Binary inputs: xor and popcount of packed rows. Float inputs: the planes decoded for a GEMM.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/gemm_conv.h"
#include "core/kernels.h"
#include "core/operators.h"
#include "core/values.h"

namespace kerasq {
namespace {

constexpr int kMaxWeightPlanes = 8;
constexpr int kMaxInputPlanes = 3;
constexpr float kOne = 1.0f;

std::string Check(const ConvGeometry& g, const BitplaneWeights& w) {
  if (w.weight_planes < 1 || w.weight_planes > kMaxWeightPlanes) {
    return "weight_planes must be 1 to 8, not " + std::to_string(w.weight_planes);
  }
  if (w.input_planes < 0 || w.input_planes > kMaxInputPlanes) {
    return "input_planes must be 0 to 3, not " + std::to_string(w.input_planes);
  }
  if (w.pad_value != 0 && w.pad_value != 1) {
    return "pad_value must be 0 or 1, not " + std::to_string(w.pad_value);
  }
  // Counts are kept in 32 bits.
  if (static_cast<int64_t>(g.taps()) * g.group_in() > (int64_t{1} << 30)) {
    return "a kernel of more than 2^30 weights an output channel";
  }
  if (w.input_planes == 0) return "";
  const int levels = (1 << w.input_planes) - 1;
  for (int64_t i = 0; i < static_cast<int64_t>(w.threshold_rows) * levels; ++i) {
    if (std::isnan(w.thresholds[i])) return "a threshold is not a number";
    if (i % levels > 0 && w.thresholds[i] < w.thresholds[i - 1]) {
      return "the thresholds of a channel must ascend";
    }
  }
  for (int i = 0; i < w.direction_size; ++i) {
    if (w.direction[i] != 1.0f && w.direction[i] != -1.0f) return "a direction must be +1 or -1";
  }
  for (int i = 0; i <= levels; ++i) {
    if (w.level_bits[i] > levels) return "level_bits name a plane that is not there";
  }
  return "";
}

// Float inputs: a 16-bit mask for every plane, block of 16 output channels, and weight.
class WeightOnlyBitplaneConv : public ConvOperator {
 public:
  WeightOnlyBitplaneConv(const ConvGeometry& g, const BitplaneWeights& w)
      : kernels_(SelectKernels()),
        weights_(w),
        name_(std::string("bitplane_weights_") + kernels_.isa),
        row_(static_cast<int64_t>(g.taps()) * g.group_in()),
        taps_(g.taps()),
        depth_(g.group_in()),
        group_out_(g.group_out()),
        blocks_(CeilDiv(g.group_out(), kPanelChannels)),
        plane_stride_(row_ * blocks_ * g.groups),
        masks_(plane_stride_ * w.weight_planes) {
    const int64_t row_bytes = CeilDiv64(row_, 8);
    for (int plane = 0; plane < w.weight_planes; ++plane) {
      for (int c = 0; c < g.out_c; ++c) {
        uint16_t* masks = masks_.data() + plane * plane_stride_ + Block(c) * row_;
        const int lane = c % group_out_ % kPanelChannels;
        const int64_t source = static_cast<int64_t>(plane) * g.out_c + c;
        for (int64_t i = 0; i < row_; ++i) {
          masks[i] |= static_cast<uint16_t>(PlaneBit(w, row_bytes, source, i) << lane);
        }
      }
    }
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return GemmScratchBytes(g, PanelDepth(g, 1), num_threads);
  }

  void Run(const ConvGeometry& g, const float* input, float* output, void* scratch,
           ThreadPool* pool) const override {
    const OutputTransform transform{&kOne, 1, weights_.bias, weights_.bias_size,
                                    weights_.activation};
    const auto decode = [this](int first, int count, int begin, int end, float* panel) {
      Decode(first, count, begin, end, panel);
    };
    GemmConv(g, kernels_, decode, PanelDepth(g, 1), transform,
             static_cast<float>(weights_.pad_value), input, output, scratch, pool);
  }

  const char* kernel_name() const override { return name_.c_str(); }

 private:
  int64_t Block(int c) const { return c / group_out_ * blocks_ + c % group_out_ / kPanelChannels; }

  void Decode(int first, int count, int begin, int end, float* panel) const {
    float scales[kMaxWeightPlanes * kPanelChannels] = {};
    float offset[kPanelChannels] = {};
    for (int l = 0; l < count; ++l) {
      const int column = weights_.basis_cols == 1 ? 0 : first + l;
      for (int p = 0; p < weights_.weight_planes; ++p) {
        scales[p * kPanelChannels + l] = weights_.basis[p * weights_.basis_cols + column];
      }
      if (weights_.basis_rows > weights_.weight_planes) {
        offset[l] = weights_.basis[weights_.weight_planes * weights_.basis_cols + column];
      }
    }
    const uint16_t* masks = masks_.data() + Block(first) * row_;
    for (int t = 0; t < taps_; ++t, panel += (end - begin) * kPanelChannels) {
      kernels_.decode_planes_x16(masks + t * depth_ + begin, plane_stride_,
                                 weights_.weight_planes, scales, offset, end - begin, panel);
    }
  }

  const Kernels& kernels_;
  const BitplaneWeights weights_;
  const std::string name_;
  const int64_t row_;
  const int taps_, depth_, group_out_, blocks_;
  const int64_t plane_stride_;
  std::vector<uint16_t> masks_;
};

// Quantized inputs. With rows of n bits, of which a padded tap's are 0 (that is, -1 each),
//   dot(a, b) = n - 2 popcount(a ^ b) + sum over padded taps of sum(b at the tap).
class BitplaneConv : public ConvOperator {
 public:
  BitplaneConv(const ConvGeometry& g, const BitplaneWeights& w)
      : kernels_(SelectKernels()),
        weights_(w),
        name_(std::string("bitplane_") + kernels_.isa),
        tap_words_(CeilDiv(g.group_in(), 64)),
        row_words_(CeilDiv64(static_cast<int64_t>(g.taps()) * tap_words_, kWordAlign) *
                   kWordAlign),
        rows_(static_cast<size_t>(row_words_) * g.out_c * w.weight_planes),
        tap_sums_(static_cast<size_t>(g.taps()) * g.out_c * w.weight_planes),
        direction_(g.in_c),
        thresholds_(static_cast<size_t>(g.in_c) * levels()) {
    PackWeights(g);
    for (int c = 0; c < g.in_c; ++c) {
      direction_[c] = Broadcast(w.direction, w.direction_size, c);
      for (int j = 0; j < levels(); ++j) {
        thresholds_[static_cast<size_t>(c) * levels() + j] =
            w.thresholds[static_cast<size_t>(w.threshold_rows == 1 ? 0 : c) * levels() + j];
      }
    }
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return Layout(g, weights_, tap_words_, row_words_).bytes(num_threads);
  }

  void Run(const ConvGeometry& g, const float* input, float* output, void* scratch,
           ThreadPool* pool) const override {
    const Layout layout(g, weights_, tap_words_, row_words_);
    uint64_t* bits = static_cast<uint64_t*>(scratch);
    uint64_t* ones = bits + layout.bits;
    uint64_t* threads = ones + layout.ones;
    if (weights_.pad_value == 1) PackOnes(g, ones);
    const int rows = g.batch * g.in_h;
    pool->ParallelFor(rows, [&](int row, int) { PackRow(g, input, row, bits); });
    pool->ParallelFor(g.batch * g.out_h, [&](int row, int thread) {
      uint64_t* own = threads + thread * layout.thread;
      for (int ox = 0; ox < g.out_w; ++ox) {
        float* pixel = output + (static_cast<int64_t>(row) * g.out_w + ox) * g.out_c;
        for (int group = 0; group < g.groups; ++group) {
          Position(g, bits, ones, row / g.out_h, row % g.out_h, ox, group, own,
                   reinterpret_cast<int32_t*>(own + layout.row), pixel);
        }
      }
    });
  }

  const char* kernel_name() const override { return name_.c_str(); }

 private:
  // Words of scratch: the packed input, a pixel of ones, and for each thread rows and counts.
  struct Layout {
    Layout(const ConvGeometry& g, const BitplaneWeights& w, int tap_words, int64_t row_words)
        : ones(static_cast<int64_t>(w.input_planes) * g.groups * tap_words),
          bits(ones * g.batch * g.in_h * g.in_w),
          row(row_words * w.input_planes),
          thread(CeilDiv64(row + CeilDiv64(g.group_out(), 2), 8) * 8) {}
    size_t bytes(int num_threads) const {
      return sizeof(uint64_t) * static_cast<size_t>(bits + ones + thread * num_threads);
    }
    int64_t ones, bits, row, thread;
  };

  int levels() const { return (1 << weights_.input_planes) - 1; }

  void PackWeights(const ConvGeometry& g) {
    const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8);
    for (int plane = 0; plane < weights_.weight_planes; ++plane) {
      for (int c = 0; c < g.out_c; ++c) {
        const int64_t source = static_cast<int64_t>(plane) * g.out_c + c;
        uint64_t* row = rows_.data() + source * row_words_;
        for (int t = 0; t < g.taps(); ++t) {
          int32_t sum = 0;
          for (int i = 0; i < g.group_in(); ++i) {
            const bool bit =
                PlaneBit(weights_, row_bytes, source, static_cast<int64_t>(t) * g.group_in() + i);
            row[t * tap_words_ + i / 64] |= static_cast<uint64_t>(bit) << (i % 64);
            sum += bit ? 1 : -1;
          }
          tap_sums_[(static_cast<size_t>(plane) * g.taps() + t) * g.out_c + c] = sum;
        }
      }
    }
  }

  // Pixels are packed as [group][plane][tap_words_].
  void PackPixel(const ConvGeometry& g, const float* x, uint64_t* words) const {
    const int depth = g.group_in(), planes = weights_.input_planes;
    for (int group = 0; group < g.groups; ++group, words += planes * tap_words_) {
      const int first = group * depth;
      if (planes == 1) {
        kernels_.pack_signs(x + first, direction_.data() + first, thresholds_.data() + first,
                            depth, words);
        if (weights_.level_bits[0] == weights_.level_bits[1] || weights_.level_bits[0] == 1) {
          Relabel(depth, words);
        }
        continue;
      }
      std::memset(words, 0, sizeof(uint64_t) * planes * tap_words_);
      for (int i = 0; i < depth; ++i) {
        const uint8_t level = weights_.level_bits[InputCode(weights_, x[first + i], first + i)];
        for (int j = 0; j < planes; ++j) {
          words[j * tap_words_ + i / 64] |= static_cast<uint64_t>(level >> j & 1) << (i % 64);
        }
      }
    }
  }

  // One plane whose levels are not -1 below and +1 above the threshold.
  void Relabel(int depth, uint64_t* words) const {
    const uint64_t below = weights_.level_bits[0] ? ~uint64_t{0} : 0;
    const uint64_t above = weights_.level_bits[1] ? ~uint64_t{0} : 0;
    for (int i = 0; i < tap_words_; ++i) {
      const int left = depth - 64 * i;
      const uint64_t used = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
      words[i] = ((words[i] & above) | (~words[i] & below)) & used;
    }
  }

  void PackRow(const ConvGeometry& g, const float* input, int row, uint64_t* bits) const {
    const int64_t words = static_cast<int64_t>(weights_.input_planes) * g.groups * tap_words_;
    for (int64_t x = static_cast<int64_t>(row) * g.in_w; x < (row + 1LL) * g.in_w; ++x) {
      PackPixel(g, input + x * g.in_c, bits + x * words);
    }
  }

  void PackOnes(const ConvGeometry& g, uint64_t* words) const {
    const std::vector<float> ones(g.in_c, 1.0f);
    PackPixel(g, ones.data(), words);
  }

  // Gather the rows of a position, then every pair of planes.
  void Position(const ConvGeometry& g, const uint64_t* bits, const uint64_t* ones, int n, int oy,
                int ox, int group, uint64_t* rows, int32_t* differing, float* pixel) const {
    const int planes = weights_.input_planes;
    const int64_t pixel_words = static_cast<int64_t>(planes) * g.groups * tap_words_;
    std::memset(rows, 0, sizeof(uint64_t) * row_words_ * planes);
    uint8_t padded[kMaxTracked];
    int num_padded = 0, valid = 0;
    const bool track = g.taps() <= kMaxTracked;
    for (int t = 0; t < g.taps(); ++t) {
      const int y = oy * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
      const int x = ox * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
      const bool inside = y >= 0 && y < g.in_h && x >= 0 && x < g.in_w;
      if (!inside && weights_.pad_value == 0) {
        if (track) padded[num_padded] = static_cast<uint8_t>(t);
        ++num_padded;
        continue;
      }
      ++valid;
      const uint64_t* source =
          inside ? bits + ((static_cast<int64_t>(n) * g.in_h + y) * g.in_w + x) * pixel_words
                 : ones;
      source += static_cast<int64_t>(group) * planes * tap_words_;
      for (int j = 0; j < planes; ++j) {
        std::memcpy(rows + j * row_words_ + static_cast<int64_t>(t) * tap_words_,
                    source + j * tap_words_, sizeof(uint64_t) * tap_words_);
      }
    }
    const Taps taps{padded, num_padded, valid, track};
    Combine(g, group, oy, ox, taps, rows, differing, pixel);
  }

  static constexpr int kMaxTracked = 256;

  struct Taps {
    const uint8_t* padded;
    int num_padded, valid;
    bool tracked;  // whether `padded` lists them: larger kernels look again
  };

  void Combine(const ConvGeometry& g, int group, int oy, int ox, const Taps& taps,
               const uint64_t* rows, int32_t* differing, float* pixel) const {
    const BitplaneWeights& w = weights_;
    const int first = group * g.group_out(), count = g.group_out();
    const int32_t n = g.taps() * g.group_in();
    const bool weight_offset = w.basis_rows > w.weight_planes;
    const bool input_offset = w.input_basis_size > w.input_planes;
    for (int c = 0; c < count; ++c) pixel[first + c] = 0.0f;
    for (int i = 0; i < w.weight_planes; ++i) {
      const float* u = w.basis + i * w.basis_cols;
      const int32_t* tap_sums = tap_sums_.data() + static_cast<size_t>(i) * g.taps() * g.out_c;
      for (int j = 0; j < w.input_planes; ++j) {
        kernels_.xor_popcount(rows + j * row_words_,
                              rows_.data() +
                                  (static_cast<int64_t>(i) * g.out_c + first) * row_words_,
                              row_words_, count, differing);
        for (int c = 0; c < count; ++c) differing[c] = n - 2 * differing[c];
        AddPadded(g, oy, ox, taps, tap_sums + first, count, 1, differing);
        for (int c = 0; c < count; ++c) {
          pixel[first + c] += Broadcast(u, w.basis_cols, first + c) * w.input_basis[j] *
                              static_cast<float>(differing[c]);
        }
      }
      if (!input_offset) continue;
      for (int c = 0; c < count; ++c) differing[c] = 0;
      for (int t = 0; t < g.taps(); ++t) {
        for (int c = 0; c < count; ++c) {
          differing[c] += tap_sums[static_cast<size_t>(t) * g.out_c + first + c];
        }
      }
      AddPadded(g, oy, ox, taps, tap_sums + first, count, -1, differing);
      for (int c = 0; c < count; ++c) {
        pixel[first + c] += Broadcast(u, w.basis_cols, first + c) *
                            w.input_basis[w.input_planes] * static_cast<float>(differing[c]);
      }
    }
    if (weight_offset) AddWeightOffset(g, first, taps, rows, input_offset, pixel);
    for (int c = first; c < first + count; ++c) {
      pixel[c] = Activate(w.activation, pixel[c] + Broadcast(w.bias, w.bias_size, c));
    }
  }

  // sums[c] += sign * sum over padded taps of tap_sums[tap][c].
  void AddPadded(const ConvGeometry& g, int oy, int ox, const Taps& taps, const int32_t* tap_sums,
                 int count, int sign, int32_t* sums) const {
    if (taps.num_padded == 0) return;
    const auto add = [&](int t) {
      const int32_t* row = tap_sums + static_cast<size_t>(t) * g.out_c;
      for (int c = 0; c < count; ++c) sums[c] += sign * row[c];
    };
    if (taps.tracked) {
      for (int i = 0; i < taps.num_padded; ++i) add(taps.padded[i]);
      return;
    }
    for (int t = 0; t < g.taps(); ++t) {
      const int y = oy * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
      const int x = ox * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
      if (y < 0 || y >= g.in_h || x < 0 || x >= g.in_w) add(t);
    }
  }

  // The weights' offset meets the sum of the quantized inputs.
  void AddWeightOffset(const ConvGeometry& g, int first, const Taps& taps, const uint64_t* rows,
                       bool input_offset, float* pixel) const {
    const BitplaneWeights& w = weights_;
    const int32_t n = taps.valid * g.group_in();
    float inputs = 0.0f;
    for (int j = 0; j < w.input_planes; ++j) {
      int32_t set = 0;
      for (int64_t i = 0; i < row_words_; ++i) {
        set += __builtin_popcountll(rows[j * row_words_ + i]);
      }
      inputs += w.input_basis[j] * static_cast<float>(2 * set - n);
    }
    if (input_offset) inputs += w.input_basis[w.input_planes] * static_cast<float>(n);
    const float* offset = w.basis + w.weight_planes * w.basis_cols;
    for (int c = first; c < first + g.group_out(); ++c) {
      pixel[c] += Broadcast(offset, w.basis_cols, c) * inputs;
    }
  }

  const Kernels& kernels_;
  const BitplaneWeights weights_;
  const std::string name_;
  const int tap_words_;
  const int64_t row_words_;
  std::vector<uint64_t> rows_;      // [plane][out_c][row_words_]
  std::vector<int32_t> tap_sums_;   // [plane][tap][out_c]: sums of +-1
  std::vector<float> direction_, thresholds_;  // [in_c], [in_c][levels]
};

}  // namespace

std::unique_ptr<ConvOperator> MakeBitplaneConv(const ConvGeometry& g, const BitplaneWeights& w,
                                               std::string* error) {
  *error = Check(g, w);
  if (!error->empty()) return nullptr;
  if (w.input_planes == 0) return std::make_unique<WeightOnlyBitplaneConv>(g, w);
  return std::make_unique<BitplaneConv>(g, w);
}

}  // namespace kerasq
