#include "core/gemm_conv.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/values.h"

namespace kerasq {
namespace {

constexpr int kPanelRows = 2048;  // 128 KiB of floats: half of a small L2 cache

int64_t Positions(const ConvGeometry& g) {
  return static_cast<int64_t>(g.batch) * g.out_h * g.out_w;
}

int64_t PaddedPositions(const ConvGeometry& g) {
  return CeilDiv64(Positions(g), kGemmRows) * kGemmRows;
}

// Floats of scratch that one thread owns: panel, sums, then pointers (as floats, two each).
struct ThreadLayout {
  ThreadLayout(const ConvGeometry& g, int panel_depth)
      : panel(static_cast<int64_t>(g.taps()) * panel_depth * kPanelChannels),
        sums(PaddedPositions(g) * kPanelChannels),
        pointers(2LL * g.taps() * kGemmRows) {}
  int64_t total() const { return CeilDiv64(panel + sums + pointers, 16) * 16; }
  int64_t panel, sums, pointers;
};

int64_t PaddingFloats(const ConvGeometry& g) { return CeilDiv64(g.group_in(), 16) * 16; }

// An output position, stepped through in order without dividing.
struct Position {
  int image = 0, y = 0, x = 0;
  void Next(const ConvGeometry& g) {
    if (++x < g.out_w) return;
    x = 0;
    if (++y < g.out_h) return;
    y = 0;
    ++image;
  }
};

// Where the taps of the kGemmRows positions from `position` on read; positions past the end read
// as padding. `input` points at the first channel that is read.
void FindPixels(const ConvGeometry& g, const float* input, Position* position, const float* padding,
                const float** pixels) {
  for (int p = 0; p < kGemmRows; ++p, position->Next(g)) {
    const bool exists = position->image < g.batch;
    const int64_t image = static_cast<int64_t>(position->image) * g.in_h;  // its first row
    const float** target = pixels + p;
    int y = position->y * g.stride_h - g.pad_top;
    for (int ky = 0; ky < g.kernel_h; ++ky, y += g.dilation_h) {
      const bool in_rows = exists && y >= 0 && y < g.in_h;
      const int64_t row = (image + y) * g.in_w;
      int x = position->x * g.stride_w - g.pad_left;
      for (int kx = 0; kx < g.kernel_w; ++kx, x += g.dilation_w, target += kGemmRows) {
        const bool inside = in_rows && x >= 0 && x < g.in_w;
        *target = inside ? input + (row + x) * g.in_c : padding;
      }
    }
  }
}

// sums[position][16] -> `count` channels from `first` on of every output pixel.
void WriteOutputs(const ConvGeometry& g, const OutputTransform& transform, int first, int count,
                  const float* sums, float* output) {
  float multiplier[kPanelChannels], bias[kPanelChannels];
  for (int l = 0; l < count; ++l) {
    multiplier[l] = Broadcast(transform.multiplier, transform.multiplier_size, first + l);
    bias[l] = Broadcast(transform.bias, transform.bias_size, first + l);
  }
  const float low = transform.activation == Activation::kNone ? -INFINITY : 0.0f;
  const float high = transform.activation == Activation::kRelu6 ? 6.0f : INFINITY;
  float* pixel = output + first;
  for (int64_t p = 0; p < Positions(g); ++p, pixel += g.out_c, sums += kPanelChannels) {
    for (int l = 0; l < count; ++l) {
      float y = multiplier[l] * sums[l] + bias[l];
      y = y < low ? low : y;
      pixel[l] = y > high ? high : y;
    }
  }
}

}  // namespace

int PanelDepth(const ConvGeometry& g, int multiple) {
  const int depth = std::max(1, kPanelRows / g.taps()) / multiple * multiple;
  return std::min(std::max(depth, multiple), CeilDiv(g.group_in(), multiple) * multiple);
}

size_t GemmScratchBytes(const ConvGeometry& g, int panel_depth, int num_threads) {
  const ThreadLayout layout(g, panel_depth);
  return sizeof(float) * static_cast<size_t>(PaddingFloats(g) + layout.total() * num_threads);
}

void GemmConv(const ConvGeometry& g, const Kernels& kernels, const DecodePanel& decode,
              int panel_depth, const OutputTransform& transform, float pad_value,
              const float* input, float* output, void* scratch, ThreadPool* pool) {
  const ThreadLayout layout(g, panel_depth);
  float* padding = static_cast<float*>(scratch);
  std::fill(padding, padding + PaddingFloats(g), pad_value);
  const int blocks = CeilDiv(g.group_out(), kPanelChannels);
  pool->ParallelFor(blocks * g.groups, [&](int task, int thread) {
    float* panel = padding + PaddingFloats(g) + thread * layout.total();
    float* sums = panel + layout.panel;
    const float** pixels = reinterpret_cast<const float**>(sums + layout.sums);
    const int group = task / blocks;
    const int start = task % blocks * kPanelChannels;
    const int count = std::min(kPanelChannels, g.group_out() - start);
    const int first = group * g.group_out() + start;
    std::memset(sums, 0, sizeof(float) * layout.sums);
    for (int begin = 0; begin < g.group_in(); begin += panel_depth) {
      const int end = std::min(begin + panel_depth, g.group_in());
      const float* weights = decode(first, count, begin, end, panel);
      const float* channels = input + group * g.group_in() + begin;
      Position position;
      for (int64_t p = 0; p < Positions(g); p += kGemmRows) {
        FindPixels(g, channels, &position, padding, pixels);
        kernels.gemm_6x16(pixels, weights, g.taps(), end - begin, sums + p * kPanelChannels);
      }
    }
    WriteOutputs(g, transform, first, count, sums, output);
  });
}

}  // namespace kerasq
