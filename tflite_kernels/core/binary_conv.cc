// Bit-plane weights under quantized inputs: xor and popcount of packed rows.
#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/bit_input.h"
#include "core/kernels.h"
#include "core/operator_classes.h"
#include "core/values.h"

namespace kerasq {
namespace {

// Output positions of one task: they stay in the first-level cache.
constexpr int kTaskPositions = 12;

// An output position, and how many of its taps are not padding.
struct Position {
  int image, oy, ox, valid_taps;
};

int32_t SetBits(const uint8_t* bytes, int64_t count) {
  int32_t set = 0;
  for (int64_t i = 0; i < count; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, static_cast<size_t>(std::min<int64_t>(8, count - i)));
    set += __builtin_popcountll(word);
  }
  return set;
}

// With rows of n bits, of which a padded tap's are 0 (that is, -1 each),
//   dot(a, b) = n - 2 popcount(a ^ b) + sum over padded taps of sum(b at the tap).
class BitplaneConv : public ConvOperator {
 public:
  BitplaneConv(const ConvGeometry& g, const BitplaneWeights& w)
      : kernels_(SelectKernels()),
        weights_(w),
        name_(std::string("bitplane_") + kernels_.isa),
        input_(g, w),
        row_bytes_(static_cast<int64_t>(g.taps()) * input_.tap_bytes()),
        blocks_(CeilDiv(g.group_out(), kCountChannels)),
        rows_(static_cast<size_t>(BlockRow(g, w.weight_planes, 0))),
        tap_sums_(static_cast<size_t>(g.taps()) * g.out_c * w.weight_planes) {
    PackWeights(g);
    w.output_thresholds != nullptr ? PackThresholds(g) : PackScales(g);
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return static_cast<size_t>(RoundUp(input_.ScratchBytes(g)) + ThreadBytes(g) * num_threads);
  }

  void Run(const ConvGeometry& g, const void* input, void* output, void* scratch,
           ThreadPool* pool) const override {
    uint8_t* packed = static_cast<uint8_t*>(scratch);
    const uint8_t* bits = input_.Pack(g, input, packed, pool);
    const int positions = Positions(g);
    const int tasks = static_cast<int>(CeilDiv64(positions, kTaskPositions));
    pool->ParallelFor(tasks, [&](int task, int thread) {
      uint8_t* rows = packed + RoundUp(input_.ScratchBytes(g)) + thread * ThreadBytes(g);
      const int first = task * kTaskPositions;
      const int count = std::min(kTaskPositions, positions - first);
      if (weights_.output_thresholds != nullptr) {
        int32_t* pixels = static_cast<int32_t*>(output) + int64_t{first} * BitWords(g.out_c);
        std::fill_n(pixels, int64_t{count} * BitWords(g.out_c), 0);
      }
      for (int group = 0; group < g.groups; ++group) {
        Task(g, bits, first, count, group, rows, output);
      }
    });
  }

  const char* kernel_name(const ConvGeometry&) const override { return name_.c_str(); }

 private:
  static int Positions(const ConvGeometry& g) { return g.batch * g.out_h * g.out_w; }
  static int64_t RoundUp(int64_t bytes) { return CeilDiv64(bytes, 64) * 64; }

  // Bytes between the rows of two positions, and sums of one position.
  int64_t position_bytes() const { return row_bytes_ * weights_.input_planes; }
  int64_t lanes() const { return int64_t{blocks_} * kCountChannels; }

  // The rows of a task, and then its sums.
  int64_t RowBytes(const ConvGeometry& g) const {
    return RoundUp(std::min(kTaskPositions, Positions(g)) * position_bytes());
  }
  int64_t ThreadBytes(const ConvGeometry& g) const {
    const int64_t sums = std::min(kTaskPositions, Positions(g)) * lanes();
    return RowBytes(g) + RoundUp(sums * static_cast<int64_t>(sizeof(int32_t)));
  }

  // Where the rows of a group begin.
  int64_t BlockRow(const ConvGeometry& g, int plane, int group) const {
    return (static_cast<int64_t>(plane) * g.groups + group) * blocks_ * row_bytes_ * kCountChannels;
  }

  bool Flipped(int channel) const {
    const BitplaneWeights& w = weights_;
    return w.output_thresholds != nullptr &&
           w.output_direction[w.output_direction_size == 1 ? 0 : channel] < 0;
  }

  // Channels that are compared in the negative direction have the opposite weights.
  void PackWeights(const ConvGeometry& g) {
    const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8);
    for (int plane = 0; plane < weights_.weight_planes; ++plane) {
      for (int c = 0; c < g.out_c; ++c) {
        const int64_t source = static_cast<int64_t>(plane) * g.out_c + c;
        const int lane = c % g.group_out();
        uint8_t* row = rows_.data() + BlockRow(g, plane, c / g.group_out()) +
                       lane / kCountChannels * row_bytes_ * kCountChannels + lane % kCountChannels;
        for (int t = 0; t < g.taps(); ++t) {
          int32_t sum = 0;
          for (int i = 0; i < g.group_in(); ++i) {
            const int64_t at = static_cast<int64_t>(t) * g.group_in() + i;
            const bool bit = PlaneBit(weights_, row_bytes, source, at) != Flipped(c);
            row[(t * input_.tap_bytes() + i / 8) * kCountChannels] |=
                static_cast<uint8_t>(bit << (i % 8));
            sum += bit ? 1 : -1;
          }
          tap_sums_[(static_cast<size_t>(plane) * g.taps() + t) * g.out_c + c] = sum;
        }
      }
    }
  }

  // Lanes without a channel never reach their threshold.
  void PackThresholds(const ConvGeometry& g) {
    const BitplaneWeights& w = weights_;
    thresholds_.assign(g.groups * lanes(), std::numeric_limits<int32_t>::max());
    for (int c = 0; c < g.out_c; ++c) {
      thresholds_[c / g.group_out() * lanes() + c % g.group_out()] =
          w.output_thresholds[w.output_thresholds_size == 1 ? 0 : c];
    }
  }

  // u_i v_j, and u_i v_off, for every channel.
  void PackScales(const ConvGeometry& g) {
    const BitplaneWeights& w = weights_;
    for (int c = 0; c < g.out_c; ++c) bias_.push_back(Broadcast(w.bias, w.bias_size, c));
    for (int i = 0; i < w.weight_planes; ++i) {
      for (int j = 0; j < w.input_basis_size; ++j) {
        for (int c = 0; c < g.out_c; ++c) {
          scales_.push_back(Broadcast(w.basis + i * w.basis_cols, w.basis_cols, c) *
                            w.input_basis[j]);
        }
      }
    }
  }

  // Call visit(tap, y, x, inside) for the taps of a position.
  template <typename Visit>
  static void ForTaps(const ConvGeometry& g, const Position& p, const Visit& visit) {
    for (int ky = 0, t = 0; ky < g.kernel_h; ++ky) {
      const int y = p.oy * g.stride_h - g.pad_top + ky * g.dilation_h;
      for (int kx = 0; kx < g.kernel_w; ++kx, ++t) {
        const int x = p.ox * g.stride_w - g.pad_left + kx * g.dilation_w;
        visit(t, y, x, y >= 0 && y < g.in_h && x >= 0 && x < g.in_w);
      }
    }
  }

  // Gather the rows of some positions, then turn their sums into outputs.
  void Task(const ConvGeometry& g, const uint8_t* bits, int first, int count, int group,
            uint8_t* rows, void* output) const {
    Position positions[kTaskPositions];
    for (int i = 0; i < count; ++i) {
      const int p = first + i;
      positions[i] = {p / g.out_w / g.out_h, p / g.out_w % g.out_h, p % g.out_w, 0};
      Gather(g, bits, group, &positions[i], rows + i * position_bytes());
    }
    int32_t* sums = reinterpret_cast<int32_t*>(rows + RowBytes(g));
    if (weights_.output_thresholds != nullptr) {
      Sum(g, positions, count, group, 0, 0, rows, sums);
      for (int i = 0; i < count; ++i) {
        WriteBits(g, group, sums + i * lanes(),
                  static_cast<int32_t*>(output) + int64_t{first + i} * BitWords(g.out_c));
      }
      return;
    }
    float* pixels = static_cast<float*>(output) + int64_t{first} * g.out_c + group * g.group_out();
    WriteFloats(g, positions, count, group, rows, sums, pixels);
  }

  // Rows are [plane][tap][tap_bytes].
  void Gather(const ConvGeometry& g, const uint8_t* bits, int group, Position* position,
              uint8_t* rows) const {
    const uint8_t* image = bits + position->image * input_.pixel_bytes() * g.in_h * g.in_w;
    if (GatherRows(g, image, position, rows)) return;
    const int planes = weights_.input_planes, bytes = input_.tap_bytes();
    ForTaps(g, *position, [&](int t, int y, int x, bool inside) {
      const uint8_t* source = input_.padding(group);
      if (inside) {
        source = image + (static_cast<int64_t>(y) * g.in_w + x) * input_.pixel_bytes() +
                 group * input_.group_bytes();
      }
      position->valid_taps += inside || weights_.pad_value == 1;
      for (int j = 0; j < planes; ++j, source += bytes) {
        std::memcpy(rows + j * row_bytes_ + int64_t{t} * bytes, source, bytes);
      }
    });
  }

  // Where nothing is padded and pixels are nothing but a tap's bytes, a row of the kernel lies in
  // one piece.
  bool GatherRows(const ConvGeometry& g, const uint8_t* image, Position* position,
                  uint8_t* rows) const {
    const int top = position->oy * g.stride_h - g.pad_top;
    const int left = position->ox * g.stride_w - g.pad_left;
    const bool inside = top >= 0 && top + (g.kernel_h - 1) * g.dilation_h < g.in_h && left >= 0 &&
                        left + g.kernel_w - 1 < g.in_w;
    if (!inside || g.dilation_w != 1 || input_.pixel_bytes() != input_.tap_bytes()) return false;
    const int64_t bytes = int64_t{g.kernel_w} * input_.tap_bytes();
    for (int ky = 0; ky < g.kernel_h; ++ky, rows += bytes) {
      const int64_t pixel = static_cast<int64_t>(top + ky * g.dilation_h) * g.in_w + left;
      std::memcpy(rows, image + pixel * input_.pixel_bytes(), static_cast<size_t>(bytes));
    }
    position->valid_taps = g.taps();
    return true;
  }

  // sums[position][c] = dot(plane j of its row, plane i of the weights of c).
  void Sum(const ConvGeometry& g, const Position* positions, int count, int group, int i, int j,
           const uint8_t* rows, int32_t* sums) const {
    kernels_.xor_popcount(rows + j * row_bytes_, count, position_bytes(),
                          rows_.data() + BlockRow(g, i, group), row_bytes_, blocks_,
                          g.taps() * g.group_in(), sums);
    for (int p = 0; p < count; ++p) AddPadded(g, positions[p], group, i, 1, sums + p * lanes());
  }

  // sums[c] += sign * sum over padded taps of plane i of the weights.
  void AddPadded(const ConvGeometry& g, const Position& position, int group, int i, int sign,
                 int32_t* sums) const {
    if (position.valid_taps == g.taps()) return;
    const int channels = g.group_out();
    ForTaps(g, position, [&](int t, int, int, bool inside) {
      const int32_t* row = TapSums(g, group, i, t);
      for (int c = 0; !inside && c < channels; ++c) sums[c] += sign * row[c];
    });
  }

  const int32_t* TapSums(const ConvGeometry& g, int group, int i, int tap) const {
    return tap_sums_.data() + (static_cast<size_t>(i) * g.taps() + tap) * g.out_c +
           group * g.group_out();
  }

  // 8 channels are a byte. Those of a group may begin anywhere in a byte of the pixel.
  void WriteBits(const ConvGeometry& g, int group, const int32_t* sums, int32_t* pixel) const {
    const int32_t* thresholds = thresholds_.data() + group * lanes();
    uint8_t* bytes = reinterpret_cast<uint8_t*>(pixel);
    if (g.groups == 1) {
      kernels_.pack_sums(sums, thresholds, CeilDiv(g.out_c, 8) * 8, bytes);
      return;
    }
    for (int c = 0; c < g.group_out(); c += 8) {
      const int first = group * g.group_out() + c;
      uint8_t byte;
      kernels_.pack_sums(sums + c, thresholds + c, 8, &byte);
      const unsigned bits = static_cast<unsigned>(byte) << first % 8;
      bytes[first / 8] |= static_cast<uint8_t>(bits);
      if (bits >> 8) bytes[first / 8 + 1] |= static_cast<uint8_t>(bits >> 8);
    }
  }

  // pixels[c] = act(sum_ij u_i v_j dot_ij + offsets + bias) for the channels of a group.
  void WriteFloats(const ConvGeometry& g, const Position* positions, int count, int group,
                   const uint8_t* rows, int32_t* sums, float* pixels) const {
    const BitplaneWeights& w = weights_;
    const int first = group * g.group_out(), channels = g.group_out();
    const bool weight_offset = w.basis_rows > w.weight_planes;
    const bool input_offset = w.input_basis_size > w.input_planes;
    bool begun = false;  // whether the pixels hold a sum
    const auto add = [&](int i, int j) {
      const float* scale = scales_.data() + (int64_t{i} * w.input_basis_size + j) * g.out_c + first;
      for (int p = 0; p < count; ++p) {
        AddScaled(sums + p * lanes(), scale, channels, begun, pixels + int64_t{p} * g.out_c);
      }
      begun = true;
    };
    for (int i = 0; i < w.weight_planes; ++i) {
      for (int j = 0; j < w.input_planes; ++j) {
        Sum(g, positions, count, group, i, j, rows, sums);
        add(i, j);
      }
      if (!input_offset) continue;
      SumWeights(g, positions, count, group, i, sums);
      add(i, w.input_planes);
    }
    for (int p = 0; p < count; ++p) {
      float* pixel = pixels + int64_t{p} * g.out_c;
      if (weight_offset) {
        AddWeightOffset(g, positions[p], first, rows + p * position_bytes(), pixel);
      }
      Finish(bias_.data() + first, channels, pixel);
    }
  }

  static void AddScaled(const int32_t* sums, const float* scale, int channels, bool begun,
                        float* pixel) {
    if (begun) {
      for (int c = 0; c < channels; ++c) pixel[c] += scale[c] * static_cast<float>(sums[c]);
    } else {
      for (int c = 0; c < channels; ++c) pixel[c] = scale[c] * static_cast<float>(sums[c]);
    }
  }

  // A loop for each activation, so that each is vectorized.
  void Finish(const float* bias, int channels, float* pixel) const {
    switch (weights_.activation) {
      case Activation::kNone:
        return Finish<Activation::kNone>(bias, channels, pixel);
      case Activation::kRelu:
        return Finish<Activation::kRelu>(bias, channels, pixel);
      case Activation::kRelu6:
        return Finish<Activation::kRelu6>(bias, channels, pixel);
    }
  }

  template <Activation kActivation>
  static void Finish(const float* bias, int channels, float* pixel) {
    for (int c = 0; c < channels; ++c) pixel[c] = Activate(kActivation, pixel[c] + bias[c]);
  }

  // sums[position][c] = sum of plane i of the weights over the taps that are not padded.
  void SumWeights(const ConvGeometry& g, const Position* positions, int count, int group, int i,
                  int32_t* sums) const {
    for (int p = 0; p < count; ++p) {
      int32_t* own = sums + p * lanes();
      std::fill_n(own, lanes(), 0);
      for (int t = 0; t < g.taps(); ++t) {
        const int32_t* row = TapSums(g, group, i, t);
        for (int c = 0; c < g.group_out(); ++c) own[c] += row[c];
      }
      AddPadded(g, positions[p], group, i, -1, own);
    }
  }

  // The weights' offset meets the sum of the quantized inputs.
  void AddWeightOffset(const ConvGeometry& g, const Position& position, int first,
                       const uint8_t* rows, float* pixel) const {
    const BitplaneWeights& w = weights_;
    const int32_t n = position.valid_taps * g.group_in();
    float inputs = 0.0f;
    for (int j = 0; j < w.input_planes; ++j) {
      const int32_t set = SetBits(rows + j * row_bytes_, row_bytes_);
      inputs += w.input_basis[j] * static_cast<float>(2 * set - n);
    }
    if (w.input_basis_size > w.input_planes) {
      inputs += w.input_basis[w.input_planes] * static_cast<float>(n);
    }
    const float* offset = w.basis + w.weight_planes * w.basis_cols;
    for (int c = 0; c < g.group_out(); ++c) {
      pixel[c] += Broadcast(offset, w.basis_cols, first + c) * inputs;
    }
  }

  const Kernels& kernels_;
  const BitplaneWeights weights_;
  const std::string name_;
  const BitInput input_;
  const int64_t row_bytes_;
  const int blocks_;                  // of 32 output channels, in one group
  std::vector<uint8_t> rows_;         // [plane][group][blocks_][row_bytes_][32 channels]
  std::vector<int32_t> tap_sums_;     // [plane][tap][out_c]: sums of +-1
  std::vector<int32_t> thresholds_;   // of an output of bits, [group][lanes()]
  std::vector<float> scales_, bias_;  // of a float output, [weight plane][basis][out_c], [out_c]
};

}  // namespace

std::unique_ptr<ConvOperator> MakeBinaryConv(const ConvGeometry& g, const BitplaneWeights& w) {
  return std::make_unique<BitplaneConv>(g, w);
}

}  // namespace kerasq
