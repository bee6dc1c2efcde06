#include "core/gemm_conv.h"

#include <algorithm>
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

// Where the taps of kGemmRows positions read; positions past the end read as padding.
void FindPixels(const ConvGeometry& g, const float* input, int64_t first, int first_channel,
                int begin, const float* padding, const float** pixels) {
  for (int p = 0; p < kGemmRows; ++p) {
    const int64_t position = first + p;
    const bool exists = position < Positions(g);
    const int ox = static_cast<int>(position % g.out_w);
    const int oy = static_cast<int>(position / g.out_w % g.out_h);
    const int64_t n = position / g.out_w / g.out_h;
    for (int t = 0; t < g.taps(); ++t) {
      const int y = oy * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
      const int x = ox * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
      const bool inside = exists && y >= 0 && y < g.in_h && x >= 0 && x < g.in_w;
      pixels[t * kGemmRows + p] =
          inside ? input + ((n * g.in_h + y) * g.in_w + x) * g.in_c + first_channel + begin
                 : padding;
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
      decode(first, count, begin, end, panel);
      for (int64_t p = 0; p < Positions(g); p += kGemmRows) {
        FindPixels(g, input, p, group * g.group_in(), begin, padding, pixels);
        kernels.gemm_6x16(pixels, panel, g.taps(), end - begin, sums + p * kPanelChannels);
      }
    }
    for (int64_t p = 0; p < Positions(g); ++p) {
      for (int l = 0; l < count; ++l) {
        output[p * g.out_c + first + l] = transform.Apply(sums[p * kPanelChannels + l], first + l);
      }
    }
  });
}

}  // namespace kerasq
