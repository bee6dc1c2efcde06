#include "core/position_lanes.h"

#include <algorithm>
#include <climits>
#include <cstring>

namespace kerasq {
namespace {

constexpr int64_t kTableBytes = 128 * 1024;  // of one sub-space: half of a small second-level cache
constexpr int kMaxColumns = 256;

// A 1x1 convolution without strides and padding is one long row, whatever the map's shape.
ConvGeometry Row(const ConvGeometry& g) {
  const int64_t pixels = static_cast<int64_t>(g.batch) * g.in_h * g.in_w;
  if (g.taps() != 1 || g.stride_h != 1 || g.stride_w != 1 || g.pad_top != 0 || g.pad_left != 0 ||
      g.in_h != g.out_h || g.in_w != g.out_w || pixels > INT_MAX / 2) {
    return g;
  }
  ConvGeometry row = g;
  row.batch = row.in_h = row.out_h = 1;
  row.in_w = row.out_w = static_cast<int>(pixels);
  return row;
}

int64_t RoundUp(int64_t bytes) { return CeilDiv64(bytes, 64) * 64; }

// Phases that taps at multiples of `dilation` read.
int Phases(int kernel, int dilation, int stride) {
  int phases = 1;
  for (int k = 0; k < kernel && phases < stride; ++k) {
    phases = std::max(phases, k * dilation % stride + 1);
  }
  return phases;
}

}  // namespace

struct PositionLanes::Call {
  const Kernels& kernels;
  const ByteTables& tables;
  const OutputTransform& transform;
  const float* input;
  float* output;
  int8_t* scratch;
};

// Some output rows and columns of a group of an image.
struct PositionLanes::Task {
  int image, group, first_row, rows, first_column, columns;
};

// What a thread owns.
struct PositionLanes::Buffers {
  Buffers(const PositionLanes& lanes, int8_t* start) {
    const auto take = [&start](int64_t bytes) {
      int8_t* taken = start;
      start += RoundUp(bytes);
      return taken;
    };
    const int64_t sums = int64_t{lanes.g_.group_out()} * lanes.Vectors() * kEntryLanes;
    codes = reinterpret_cast<int16_t*>(take(sizeof(int16_t) * lanes.g_.group_in()));
    padded = reinterpret_cast<int16_t*>(take(sizeof(int16_t) * lanes.book_.padded_codes()));
    planes = reinterpret_cast<int16_t*>(
        take(sizeof(int16_t) * lanes.book_.padded_codes() * lanes.Line()));
    // A look-up reads whole vectors, past the last positions of the last row.
    table = take(lanes.subspaces_ * lanes.book_.size() * lanes.Line() +
                 (int64_t{lanes.Vectors()} + 1) * kEntryLanes);
    narrow = reinterpret_cast<int16_t*>(take(sizeof(int16_t) * sums));
    wide = reinterpret_cast<int32_t*>(take(sizeof(int32_t) * sums));
    offsets = reinterpret_cast<int*>(take(sizeof(int) * lanes.g_.taps()));
    end = start;
  }
  int16_t *codes, *padded;  // of one pixel
  int16_t* planes;          // [sub-space][pair][position][2]
  int8_t* table;            // [sub-space][codeword][position]
  int16_t* narrow;          // [channel][position]
  int32_t* wide;
  int* offsets;
  int8_t* end;
};

PositionLanes::PositionLanes(const ConvGeometry& geometry, const ByteCodebook& book,
                             int num_threads)
    : g_(Row(geometry)),
      book_(book),
      num_threads_(num_threads),
      phases_h_(Phases(g_.kernel_h, g_.dilation_h, g_.stride_h)),
      phases_w_(Phases(g_.kernel_w, g_.dilation_w, g_.stride_w)),
      reach_h_((g_.kernel_h - 1) * g_.dilation_h / g_.stride_h),
      reach_w_((g_.kernel_w - 1) * g_.dilation_w / g_.stride_w) {
  tiles_w_ = CeilDiv(g_.out_w, kMaxColumns);
  columns_ = CeilDiv(g_.out_w, tiles_w_);
  pitch_ = columns_ + reach_w_;
  const int64_t row_bytes = static_cast<int64_t>(phases_h_) * phases_w_ * pitch_ * book.size();
  int64_t fit = std::max<int64_t>(1, kTableBytes / row_bytes - reach_h_);
  const int64_t independent = int64_t{g_.batch} * g_.groups * tiles_w_;
  if (num_threads > 1) {
    const int64_t wanted = CeilDiv64(2 * num_threads, independent);
    fit = std::min(fit, CeilDiv64(g_.out_h, wanted));
  }
  tiles_h_ = CeilDiv(g_.out_h, static_cast<int>(std::min<int64_t>(fit, g_.out_h)));
  rows_ = CeilDiv(g_.out_h, tiles_h_);
  const int64_t tables = kTableBytes / (Line() * book.size());
  const int64_t most = std::min<int64_t>(kMaxByteSums / g_.taps(), book.subspaces());
  subspaces_ = static_cast<int>(std::max<int64_t>(1, std::min(tables, most)));
}

int64_t PositionLanes::PhaseLine() const { return int64_t{rows_ + reach_h_} * pitch_; }

int64_t PositionLanes::Line() const {
  return CeilDiv64(PhaseLine() * phases_h_ * phases_w_, kEntryLanes) * kEntryLanes;
}

int PositionLanes::TapOffset(int tap) const {
  const int y = tap / g_.kernel_w * g_.dilation_h, x = tap % g_.kernel_w * g_.dilation_w;
  const int64_t phase = int64_t{y % g_.stride_h} * phases_w_ + x % g_.stride_w;
  return static_cast<int>(phase * PhaseLine() + int64_t{y / g_.stride_h} * pitch_ +
                          x / g_.stride_w);
}

int64_t PositionLanes::ThreadBytes() const {
  return reinterpret_cast<intptr_t>(Buffers(*this, nullptr).end);
}

size_t PositionLanes::ScratchBytes() const {
  return static_cast<size_t>(ThreadBytes()) * num_threads_;
}

// The codes of every input pixel that the tile sees, spread to planes; 0 outside the map.
void PositionLanes::FillPlanes(const Call& call, const Task& task, const Buffers& buffers) const {
  const int64_t line = Line(), pairs = int64_t{book_.pairs()} * book_.subspaces();
  std::memset(buffers.planes, 0, sizeof(int16_t) * book_.padded_codes() * line);
  const int rows = task.rows + reach_h_;
  for (int phase = 0; phase < phases_h_ * phases_w_; ++phase) {
    for (int row = 0; row < rows; ++row) {
      const int y = (task.first_row + row) * g_.stride_h - g_.pad_top + phase / phases_w_;
      if (y < 0 || y >= g_.in_h) continue;
      for (int column = 0; column < pitch_; ++column) {
        const int64_t x =
            int64_t{task.first_column + column} * g_.stride_w - g_.pad_left + phase % phases_w_;
        if (x < 0 || x >= g_.in_w) continue;
        const int64_t pixel = (int64_t{task.image} * g_.in_h + y) * g_.in_w + x;
        call.kernels.quantize(
            call.input + pixel * g_.in_c + static_cast<int64_t>(task.group) * g_.group_in(),
            call.tables.inverse_scale, LowestCode(call.tables), HighestCode(call.tables),
            g_.group_in(), buffers.codes);
        book_.PadCodes(buffers.codes, g_.group_in(), buffers.padded);
        int16_t* target = buffers.planes + 2 * (phase * PhaseLine() + row * pitch_ + column);
        for (int64_t j = 0; j < pairs; ++j) {
          std::memcpy(target + 2 * j * line, buffers.padded + 2 * j, 2 * sizeof(int16_t));
        }
      }
    }
  }
}

// sums of 16 bits += what some sub-spaces give
void PositionLanes::AddSubspaces(const Call& call, const Task& task, int first, int count,
                                 const Buffers& buffers) const {
  const EntryRounding rounding{call.tables.shift, call.tables.multiplier};
  const int64_t line = Line();
  for (int m = 0; m < count; ++m) {
    const int16_t* rows = buffers.planes + int64_t{first + m} * book_.pairs() * 2 * line;
    int8_t* table = buffers.table + int64_t{m} * book_.size() * line;
    for (int k = 0; k < book_.size(); ++k, table += line) {
      call.kernels.build_entries(rows, 2 * line, book_.columns(first + m) + 2 * k,
                                 book_.column_stride(), book_.pairs(), static_cast<int>(line),
                                 rounding, table);
    }
  }
  ByteLookUpBlock block;
  block.table = buffers.table;
  block.row = line;
  block.subspace_pitch = line * book_.size();
  block.subspaces = count;
  block.taps = g_.taps();
  block.tap_offsets = buffers.offsets;
  block.indices = book_.indices(task.group * book_.blocks()) +
                  static_cast<int64_t>(first) * g_.taps() * kLookUpChannels;
  block.index_pitch = book_.block_pitch();
  block.channels = g_.group_out();
  block.vectors = Vectors();
  block.sums = buffers.narrow;
  call.kernels.look_up_bytes(block);
}

// wide += narrow; narrow = 0
void PositionLanes::Widen(const Buffers& buffers) const {
  const int64_t n = int64_t{g_.group_out()} * Vectors() * kEntryLanes;
  for (int64_t i = 0; i < n; ++i) buffers.wide[i] += buffers.narrow[i];
  std::memset(buffers.narrow, 0, sizeof(int16_t) * n);
}

// sums -> output, channels innermost again, a few of them at a time
void PositionLanes::Write(const Call& call, const Task& task, const Buffers& buffers) const {
  constexpr int kAtOnce = 16;
  const int64_t width = int64_t{Vectors()} * kEntryLanes;
  for (int begin = 0; begin < g_.group_out(); begin += kAtOnce) {
    const int end = std::min(begin + kAtOnce, g_.group_out());
    for (int row = 0; row < task.rows; ++row) {
      const int64_t first =
          (int64_t{task.image} * g_.out_h + task.first_row + row) * g_.out_w + task.first_column;
      for (int column = 0; column < task.columns; ++column) {
        float* pixel = call.output + (first + column) * g_.out_c;
        const int32_t* sums = buffers.wide + int64_t{row} * pitch_ + column;
        for (int c = begin; c < end; ++c) {
          const int channel = task.group * g_.group_out() + c;
          pixel[channel] = call.transform.Apply(static_cast<float>(sums[c * width]), channel);
        }
      }
    }
  }
}

// for some sub-spaces at a time:  tables;  sums of 16 bits += entries;  widened before they
// overflow
void PositionLanes::Work(const Call& call, int number, int thread) const {
  const Buffers buffers(*this, call.scratch + thread * ThreadBytes());
  Task task;
  task.first_row = number % tiles_h_ * rows_;
  task.rows = std::min(rows_, g_.out_h - task.first_row);
  task.first_column = number / tiles_h_ % tiles_w_ * columns_;
  task.columns = std::min(columns_, g_.out_w - task.first_column);
  task.group = number / tiles_h_ / tiles_w_ % g_.groups;
  task.image = number / tiles_h_ / tiles_w_ / g_.groups;
  if (task.rows <= 0 || task.columns <= 0) return;
  for (int t = 0; t < g_.taps(); ++t) buffers.offsets[t] = TapOffset(t);
  const int64_t sums = int64_t{g_.group_out()} * Vectors() * kEntryLanes;
  std::memset(buffers.narrow, 0, sizeof(int16_t) * sums);
  std::memset(buffers.wide, 0, sizeof(int32_t) * sums);
  FillPlanes(call, task, buffers);
  int added = 0;
  for (int m = 0; m < book_.subspaces(); m += subspaces_) {
    const int count = std::min(subspaces_, book_.subspaces() - m);
    if (added + count * g_.taps() > kMaxByteSums) {
      Widen(buffers);
      added = 0;
    }
    AddSubspaces(call, task, m, count, buffers);
    added += count * g_.taps();
  }
  Widen(buffers);
  Write(call, task, buffers);
}

void PositionLanes::Run(const Kernels& kernels, const ByteTables& tables,
                        const OutputTransform& transform, const float* input, float* output,
                        void* scratch, ThreadPool* pool) const {
  const Call call{kernels, tables, transform, input, output, static_cast<int8_t*>(scratch)};
  const int64_t tasks = int64_t{g_.batch} * g_.groups * tiles_w_ * tiles_h_;
  pool->ParallelFor(static_cast<int>(tasks),
                    [&](int task, int thread) { Work(call, task, thread); });
}

}  // namespace kerasq
