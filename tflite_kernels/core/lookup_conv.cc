#include "core/lookup_conv.h"

#include <algorithm>
#include <climits>
#include <cstring>

#include "core/values.h"

namespace kerasq {
namespace {

constexpr int kLanes = 8;
constexpr int64_t kCacheFloats = 8 * 1024;   // 32 KiB: the L1 cache
constexpr int64_t kTableFloats = 16 * 1024;  // more look-ups for each sum outweigh its misses

int Span(int kernel, int dilation) { return (kernel - 1) * dilation + 1; }

// A 1x1 convolution without strides is one long row, whatever the shape of the map.
ConvGeometry Flat(const ConvGeometry& g) {
  const int64_t pixels = static_cast<int64_t>(g.batch) * g.in_h * g.in_w;
  if (g.taps() != 1 || g.stride_h != 1 || g.stride_w != 1 || g.pad_top != 0 || g.pad_left != 0 ||
      g.in_h != g.out_h || g.in_w != g.out_w || pixels > INT_MAX / 2) {
    return g;
  }
  ConvGeometry flat = g;
  flat.batch = flat.in_h = flat.out_h = 1;
  flat.in_w = flat.out_w = static_cast<int>(pixels);
  return flat;
}

// Where in a table's row tap `kx` finds the input of the tile's first output.
int TapOffset(const LookUpPlan& plan, int kx) {
  const int x = kx * plan.g.dilation_w;
  return x % plan.g.stride_w * plan.phase_columns + x / plan.g.stride_w;
}

// One task: some output rows of one tile of columns, one group of one image.
struct Task {
  int image, group, first_row, rows, first_column, columns;
};

// What a thread owns: the input row in planes, the table, sums of `ring` rows, tap offsets.
struct Buffers {
  Buffers(const LookUpPlan& plan, const PackedCodebook& book, float* start)
      : planes(start),
        table(planes + PlanesFloats(plan)),
        sums(table + plan.TableFloats(book)),
        offsets(reinterpret_cast<int*>(sums + SumsFloats(plan))) {}
  static int64_t PlanesFloats(const LookUpPlan& plan) {
    return CeilDiv64(plan.row * plan.g.group_in(), 16) * 16;
  }
  static int64_t RowSums(const LookUpPlan& plan) {
    return static_cast<int64_t>(plan.channels) * plan.vectors * kLanes;
  }
  static int64_t SumsFloats(const LookUpPlan& plan) { return plan.ring * RowSums(plan); }
  float *planes, *table, *sums;
  int* offsets;
};

// planes[channel][phase][column] of the input row y that the tile's outputs see; 0 outside.
void FillPlanes(const LookUpPlan& plan, const float* input, const Task& task, int y,
                float* planes) {
  const ConvGeometry& g = plan.g;
  const float* source = input + (static_cast<int64_t>(task.image) * g.in_h + y) * g.in_w * g.in_c +
                        static_cast<int64_t>(task.group) * g.group_in();
  const int64_t first = static_cast<int64_t>(task.first_column) * g.stride_w - g.pad_left;
  for (int64_t i = 0; i < plan.row; ++i) {
    const int64_t phase = i / plan.phase_columns, column = i % plan.phase_columns;
    const int64_t x = first + column * g.stride_w + phase;
    float* target = planes + i;
    if (phase >= plan.phases || x < 0 || x >= g.in_w) {
      for (int c = 0; c < g.group_in(); ++c) target[c * plan.row] = 0.0f;
      continue;
    }
    const float* pixel = source + x * g.in_c;
    for (int c = 0; c < g.group_in(); ++c) target[c * plan.row] = pixel[c];
  }
}

// sums -> output row, channels innermost again; the sums are left zero for the next row.
void Flush(const LookUpPlan& plan, const OutputTransform& transform, const Task& task, int oy,
           float* sums, float* output) {
  const ConvGeometry& g = plan.g;
  const int first = task.group * g.group_out();
  const int64_t width = plan.vectors * kLanes;
  float* pixel =
      output +
      ((static_cast<int64_t>(task.image) * g.out_h + oy) * g.out_w + task.first_column) * g.out_c +
      first;
  for (int x = 0; x < task.columns; ++x, pixel += g.out_c) {
    for (int c = 0; c < g.group_out(); ++c) {
      pixel[c] = transform.Apply(sums[c * width + x], first + c);
    }
  }
  std::memset(sums, 0, sizeof(float) * Buffers::RowSums(plan));
}

// All that input row y gives to the output rows of the task.
void AddInputRow(const LookUpPlan& plan, const PackedCodebook& book, const Kernels& kernels,
                 const Task& task, int y, const Buffers& buffers) {
  const ConvGeometry& g = plan.g;
  LookUpBlock block;
  block.table = buffers.table;
  block.row = plan.row;
  block.subspace_pitch = plan.row * book.size();
  block.taps = g.kernel_w;
  block.tap_offsets = buffers.offsets;
  block.index_pitch = book.block_pitch();
  block.channel_blocks = book.blocks();
  block.vectors = plan.vectors;
  for (int m = 0; m < book.subspaces(); m += plan.subspaces) {
    block.subspaces = std::min(plan.subspaces, book.subspaces() - m);
    for (int i = 0; i < block.subspaces; ++i) {
      const int channel = (m + i) * book.subvector();
      kernels.build_table(book.codewords(m + i), book.size(), book.subvector(),
                          std::min(book.subvector(), g.group_in() - channel),
                          buffers.planes + channel * plan.row, plan.row,
                          buffers.table + i * block.subspace_pitch);
    }
    for (int ky = 0; ky < g.kernel_h; ++ky) {
      const int reach = y + g.pad_top - ky * g.dilation_h;
      if (reach < 0 || reach % g.stride_h != 0) continue;
      const int oy = reach / g.stride_h;
      if (oy < task.first_row || oy >= task.first_row + task.rows) continue;
      block.indices = book.indices(task.group * book.blocks(), ky, m);
      block.sums = buffers.sums + oy % plan.ring * Buffers::RowSums(plan);
      kernels.look_up(block);
    }
  }
}

// Whether any output row of the task reads row y.
bool Meets(const ConvGeometry& g, const Task& task, int y) {
  for (int ky = 0; ky < g.kernel_h; ++ky) {
    const int reach = y + g.pad_top - ky * g.dilation_h;
    if (reach >= 0 && reach % g.stride_h == 0 && reach / g.stride_h >= task.first_row &&
        reach / g.stride_h < task.first_row + task.rows) {
      return true;
    }
  }
  return false;
}

}  // namespace

// Cycles, roughly: a table costs half a cycle for each multiply-add of a vector; an addition of a
// vector half a cycle, twice that where the table of one sub-space does not fit the L1 cache,
// and each look-up somewhat more for its index.
LookUpPlan::LookUpPlan(const ConvGeometry& geometry, const PackedCodebook& book)
    : g(Flat(geometry)),
      ring(CeilDiv(Span(g.kernel_h, g.dilation_h), g.stride_h)),
      channels(book.blocks() * kLookUpChannels) {
  const int reach = (g.kernel_w - 1) * g.dilation_w;
  phases = 1;
  for (int kx = 0; kx < g.kernel_w; ++kx) {
    phases = std::max(phases, kx * g.dilation_w % g.stride_w + 1);
  }
  const double in_rows = std::min<double>(
      static_cast<double>(g.out_h) * std::min(g.kernel_h, g.stride_h) + g.kernel_h, g.in_h);
  const double look_ups = static_cast<double>(g.out_h) * g.taps() * book.subspaces() * channels;
  cost = -1.0;
  for (int v = 1; v <= kMaxLookUpVectors; ++v) {
    const int n = CeilDiv(g.out_w, v * kLanes);
    const int wide = CeilDiv(g.out_w, n);
    if (CeilDiv(wide, kLanes) != v) continue;
    const int one_phase = wide + reach / g.stride_w;
    const int64_t floats = CeilDiv64(static_cast<int64_t>(phases) * one_phase, kLanes) * kLanes;
    const double add = floats * book.size() > kCacheFloats ? 1.0 : 0.5;
    const double build =
        0.6 * in_rows * g.group_in() * book.size() * static_cast<double>(floats / kLanes);
    const double total = n * (build + look_ups * (0.4 + add * v));
    if (cost >= 0.0 && total >= cost) continue;
    cost = total;
    tiles = n;
    columns = wide;
    vectors = v;
    phase_columns = one_phase;
    row = floats;
  }
  cost *= static_cast<double>(g.batch) * g.groups;
  const int64_t fit = kTableFloats / (row * book.size());
  subspaces = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(fit, book.subspaces())));
}

// A look-up reads whole vectors, past the last columns of the last row.
int64_t LookUpPlan::TableFloats(const PackedCodebook& book) const {
  const int64_t slack = static_cast<int64_t>(vectors) * kLanes;
  return CeilDiv64(subspaces * book.size() * row + slack, 16) * 16;
}

int64_t LookUpPlan::ThreadFloats(const PackedCodebook& book) const {
  const int64_t floats = Buffers::PlanesFloats(*this) + TableFloats(book) +
                         Buffers::SumsFloats(*this) +
                         g.kernel_w;  // an offset takes the place of a float
  return CeilDiv64(floats, 16) * 16;
}

size_t LookUpScratchBytes(const LookUpPlan& plan, const PackedCodebook& book, int num_threads) {
  return sizeof(float) * static_cast<size_t>(plan.ThreadFloats(book)) * num_threads;
}

// for every input row:  table = codewords x row;  sums of every output row that it meets += table
// An output row is done when the last input row that it reads is.
void LookUpConv(const LookUpPlan& plan, const PackedCodebook& book, const Kernels& kernels,
                const OutputTransform& transform, const float* input, float* output, void* scratch,
                ThreadPool* pool) {
  const ConvGeometry& g = plan.g;
  const int64_t independent = static_cast<int64_t>(g.batch) * g.groups * plan.tiles;
  const int64_t wanted = pool->num_threads() == 1 ? 1 : 2 * pool->num_threads();
  const int cuts = static_cast<int>(std::min<int64_t>(g.out_h, CeilDiv64(wanted, independent)));
  const int cut_rows = CeilDiv(g.out_h, cuts);
  const auto work = [&](int number, int thread) {
    const Buffers buffers(plan, book,
                          static_cast<float*>(scratch) + thread * plan.ThreadFloats(book));
    for (int kx = 0; kx < g.kernel_w; ++kx) buffers.offsets[kx] = TapOffset(plan, kx);
    Task task;
    task.first_row = number % cuts * cut_rows;
    task.rows = std::min(cut_rows, g.out_h - task.first_row);
    task.group = number / cuts % g.groups;
    task.first_column = number / cuts / g.groups % plan.tiles * plan.columns;
    task.columns = std::min(plan.columns, g.out_w - task.first_column);
    task.image = number / cuts / g.groups / plan.tiles;
    if (task.rows <= 0 || task.columns <= 0) return;
    std::memset(buffers.sums, 0, sizeof(float) * Buffers::SumsFloats(plan));
    int y = task.first_row * g.stride_h - g.pad_top;
    for (int oy = task.first_row; oy < task.first_row + task.rows; ++oy) {
      const int last = oy * g.stride_h - g.pad_top + (g.kernel_h - 1) * g.dilation_h;
      for (; y <= last; ++y) {
        if (y < 0 || y >= g.in_h || !Meets(g, task, y)) continue;
        FillPlanes(plan, input, task, y, buffers.planes);
        AddInputRow(plan, book, kernels, task, y, buffers);
      }
      Flush(plan, transform, task, oy, buffers.sums + oy % plan.ring * Buffers::RowSums(plan),
            output);
    }
  };
  pool->ParallelFor(static_cast<int>(independent * cuts),
                    [&work](int task, int thread) { work(task, thread); });
}

}  // namespace kerasq
