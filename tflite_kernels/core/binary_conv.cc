// Bit-plane weights under quantized inputs: xor and popcount of packed rows.
#include <cstring>
#include <string>
#include <vector>

#include "core/kernels.h"
#include "core/operator_classes.h"
#include "core/values.h"

namespace kerasq {
namespace {

// Quantized inputs. With rows of n bits, of which a padded tap's are 0 (that is, -1 each),
//   dot(a, b) = n - 2 popcount(a ^ b) + sum over padded taps of sum(b at the tap).
class BitplaneConv : public ConvOperator {
 public:
  BitplaneConv(const ConvGeometry& g, const BitplaneWeights& w)
      : kernels_(SelectKernels()),
        weights_(w),
        name_(std::string("bitplane_") + kernels_.isa),
        tap_words_(CeilDiv(g.group_in(), 64)),
        row_words_(static_cast<int64_t>(g.taps()) * tap_words_),
        blocks_(CeilDiv(g.group_out(), kCountChannels)),
        rows_(static_cast<size_t>(BlockRow(g, w.weight_planes, 0))),
        tap_sums_(static_cast<size_t>(g.taps()) * g.out_c * w.weight_planes),
        direction_(g.in_c),
        thresholds_(static_cast<size_t>(g.in_c) * levels()),
        ones_(static_cast<size_t>(w.input_planes) * g.groups * tap_words_),
        zeros_(static_cast<size_t>(w.input_planes) * tap_words_) {
    PackWeights(g);
    for (int c = 0; c < g.in_c; ++c) {
      direction_[c] = Broadcast(w.direction, w.direction_size, c);
      for (int j = 0; j < levels(); ++j) {
        thresholds_[static_cast<size_t>(c) * levels() + j] =
            w.thresholds[static_cast<size_t>(w.threshold_rows == 1 ? 0 : c) * levels() + j];
      }
    }
    PackPixel(g, std::vector<float>(g.in_c, 1.0f).data(), ones_.data());
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return Layout(g, weights_, tap_words_, row_words_).bytes(num_threads);
  }

  void Run(const ConvGeometry& g, const float* input, float* output, void* scratch,
           ThreadPool* pool) const override {
    const Layout layout(g, weights_, tap_words_, row_words_);
    uint64_t* bits = static_cast<uint64_t*>(scratch);
    uint64_t* threads = bits + layout.bits;
    const int rows = g.batch * g.in_h;
    pool->ParallelFor(rows, [&](int row, int) { PackRow(g, input, row, bits); });
    pool->ParallelFor(g.batch * g.out_h, [&](int row, int thread) {
      uint64_t* own = threads + thread * layout.thread;
      for (int ox = 0; ox < g.out_w; ++ox) {
        float* pixel = output + (static_cast<int64_t>(row) * g.out_w + ox) * g.out_c;
        for (int group = 0; group < g.groups; ++group) {
          Position(g, bits, row / g.out_h, row % g.out_h, ox, group, own,
                   reinterpret_cast<int32_t*>(own + layout.row), pixel);
        }
      }
    });
  }

  const char* kernel_name(const ConvGeometry&) const override { return name_.c_str(); }

 private:
  // Words of scratch: the packed input, and for each thread rows and counts.
  struct Layout {
    Layout(const ConvGeometry& g, const BitplaneWeights& w, int tap_words, int64_t row_words)
        : bits(static_cast<int64_t>(w.input_planes) * g.groups * tap_words * g.batch * g.in_h *
               g.in_w),
          row(row_words * w.input_planes),
          thread(CeilDiv64(row + CeilDiv64(g.group_out(), kCountChannels) * kCountChannels / 2, 8) *
                 8) {}
    size_t bytes(int num_threads) const {
      return sizeof(uint64_t) * static_cast<size_t>(bits + thread * num_threads);
    }
    int64_t bits, row, thread;
  };

  int levels() const { return weights_.num_thresholds; }

  // Where the rows of a group begin.
  int64_t BlockRow(const ConvGeometry& g, int plane, int group) const {
    return (static_cast<int64_t>(plane) * g.groups + group) * blocks_ * row_words_ * kCountChannels;
  }

  void PackWeights(const ConvGeometry& g) {
    const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8);
    for (int plane = 0; plane < weights_.weight_planes; ++plane) {
      for (int c = 0; c < g.out_c; ++c) {
        const int64_t source = static_cast<int64_t>(plane) * g.out_c + c;
        const int lane = c % g.group_out();
        uint64_t* row = rows_.data() + BlockRow(g, plane, c / g.group_out()) +
                        lane / kCountChannels * row_words_ * kCountChannels + lane % kCountChannels;
        for (int t = 0; t < g.taps(); ++t) {
          int32_t sum = 0;
          for (int i = 0; i < g.group_in(); ++i) {
            const bool bit =
                PlaneBit(weights_, row_bytes, source, static_cast<int64_t>(t) * g.group_in() + i);
            row[(t * tap_words_ + i / 64) * kCountChannels] |= static_cast<uint64_t>(bit)
                                                               << (i % 64);
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
        kernels_.pack_signs(x + first, direction_.data() + first, thresholds_.data() + first, depth,
                            words);
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

  // Gather the rows of a position, then every pair of planes.
  void Position(const ConvGeometry& g, const uint64_t* bits, int n, int oy, int ox, int group,
                uint64_t* rows, int32_t* differing, float* pixel) const {
    const int planes = weights_.input_planes;
    const int64_t pixel_words = static_cast<int64_t>(planes) * g.groups * tap_words_;
    uint8_t padded[kMaxTracked];
    int num_padded = 0, valid = 0, t = 0;
    const bool track = g.taps() <= kMaxTracked;
    for (int ky = 0; ky < g.kernel_h; ++ky) {
      const int y = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
      for (int kx = 0; kx < g.kernel_w; ++kx, ++t, rows += tap_words_) {
        const int x = ox * g.stride_w - g.pad_left + kx * g.dilation_w;
        const bool inside = y >= 0 && y < g.in_h && x >= 0 && x < g.in_w;
        const uint64_t* source = zeros_.data();
        if (inside || weights_.pad_value == 1) {
          ++valid;
          source = inside
                       ? bits + ((static_cast<int64_t>(n) * g.in_h + y) * g.in_w + x) * pixel_words
                       : ones_.data();
          source += static_cast<int64_t>(group) * planes * tap_words_;
        } else {
          if (track) padded[num_padded] = static_cast<uint8_t>(t);
          ++num_padded;
        }
        for (int j = 0; j < planes; ++j) {
          for (int k = 0; k < tap_words_; ++k) rows[j * row_words_ + k] = *source++;
        }
      }
    }
    rows -= row_words_;
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
        kernels_.xor_popcount(rows + j * row_words_, rows_.data() + BlockRow(g, i, group),
                              row_words_, blocks_, differing);
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
        pixel[first + c] += Broadcast(u, w.basis_cols, first + c) * w.input_basis[w.input_planes] *
                            static_cast<float>(differing[c]);
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
  const int blocks_;                           // of 8 output channels, in one group
  std::vector<uint64_t> rows_;                 // [plane][group][blocks_][row_words_][8 channels]
  std::vector<int32_t> tap_sums_;              // [plane][tap][out_c]: sums of +-1
  std::vector<float> direction_, thresholds_;  // [in_c], [in_c][levels]
  std::vector<uint64_t> ones_;   // a pixel of ones, packed: what padding reads with pad_value 1
  std::vector<uint64_t> zeros_;  // what it reads with pad_value 0
};

}  // namespace

std::unique_ptr<ConvOperator> MakeBinaryConv(const ConvGeometry& g, const BitplaneWeights& w) {
  return std::make_unique<BitplaneConv>(g, w);
}

}  // namespace kerasq
