#include "core/codeword_lanes.h"

#include <algorithm>
#include <climits>
#include <cstring>

namespace kerasq {
namespace {

constexpr int64_t kBandBytes = 512 * 1024;  // of tables: a second-level cache
constexpr int kRows = kNibbleRows, kChannels = kNibbleChannels;

// A 1x1 convolution without strides and padding is a column of pixels, whatever the map's shape.
ConvGeometry Column(const ConvGeometry& g) {
  const int64_t pixels = static_cast<int64_t>(g.batch) * g.in_h * g.in_w;
  if (g.taps() != 1 || g.stride_h != 1 || g.stride_w != 1 || g.pad_top != 0 || g.pad_left != 0 ||
      g.in_h != g.out_h || g.in_w != g.out_w || pixels > INT_MAX / 2) {
    return g;
  }
  ConvGeometry column = g;
  column.batch = column.in_w = column.out_w = 1;
  column.in_h = column.out_h = static_cast<int>(pixels);
  return column;
}

int64_t RoundUp(int64_t bytes) { return CeilDiv64(bytes, 64) * 64; }

// sums[p][l] = sum_{t,m} tables[t * kRows + p][m * lanes + index[m][t][l]] for p < rows, l < 4: as
// many channels as have their sums in registers.
void LookUpSingles(const int8_t* const* tables, const uint8_t* indices, int subspaces, int taps,
                   int64_t lanes, int rows, int32_t* sums) {
  for (int p = 0; p < rows; ++p, sums += kChannels) {
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int t = 0; t < taps; ++t) {
      const int8_t* table = tables[t * kRows + p];
      const uint8_t* index = indices + t * kLookUpChannels;
      for (int m = 0; m < subspaces; ++m, table += lanes, index += taps * kLookUpChannels) {
        a += table[index[0]];
        b += table[index[1]];
        c += table[index[2]];
        d += table[index[3]];
      }
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
  }
}

}  // namespace

struct CodewordLanes::Call {
  const Kernels& kernels;
  const ByteTables& tables;
  const std::vector<uint8_t>& nibbles;
  const OutputTransform& transform;
  const float* input;
  float* output;
  int8_t* zeros;   // the tables of a padded tap
  int8_t* pixels;  // [input row of the band][input column][group], tables of a pixel
  int8_t* threads;
};

struct CodewordLanes::Band {
  int image, first_row, rows;       // of the output
  int first_input_row, input_rows;  // that it reads
};

CodewordLanes::CodewordLanes(const ConvGeometry& geometry, const ByteCodebook& book,
                             int num_threads)
    : g_(Column(geometry)), book_(book), num_threads_(num_threads) {
  const int64_t row_bytes = PixelBytes() * g_.groups * g_.in_w;
  const int span = (g_.kernel_h - 1) * g_.dilation_h + 1;
  const int64_t fit = (kBandBytes / row_bytes - span) / g_.stride_h + 1;
  rows_ = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(fit, g_.out_h)));
  rows_ = CeilDiv(g_.out_h, CeilDiv(g_.out_h, rows_));
  const int blocks = CeilDiv(g_.group_out(), kChannels) * g_.groups;
  const int wanted = num_threads == 1 ? 1 : CeilDiv(2 * num_threads, blocks);
  splits_ = std::min<int64_t>(wanted, CeilDiv64(int64_t{rows_} * g_.out_w, kRows));
}

int64_t CodewordLanes::SubspaceSlots() const {
  return book_.lanes() == kEntryLanes ? CeilDiv(book_.subspaces(), 2) * 2 : book_.subspaces();
}

int64_t CodewordLanes::PixelBytes() const { return SubspaceSlots() * book_.lanes(); }

int CodewordLanes::BandInputRows() const {
  const int64_t rows =
      static_cast<int64_t>(rows_ - 1) * g_.stride_h + (g_.kernel_h - 1) * g_.dilation_h + 1;
  return static_cast<int>(std::min<int64_t>(rows, g_.in_h));
}

// Codes of a pixel and group as they come and as pairs, pointers to tables, sums.
int64_t CodewordLanes::ThreadBytes() const {
  return RoundUp(sizeof(int16_t) * (CeilDiv64(g_.group_in(), 2) * 2 + book_.padded_codes())) +
         RoundUp(sizeof(int8_t*) * g_.taps() * kRows) +
         RoundUp(sizeof(int32_t) * kRows * kChannels);
}

size_t CodewordLanes::ScratchBytes() const {
  const int64_t pixels = int64_t{BandInputRows()} * g_.in_w * g_.groups;
  return static_cast<size_t>(RoundUp(PixelBytes() * (pixels + 1)) + ThreadBytes() * num_threads_);
}

// One task: an input row of the band.
void CodewordLanes::BuildTables(const Call& call, const Band& band, int row, int thread) const {
  auto* codes = reinterpret_cast<int16_t*>(call.threads + thread * ThreadBytes());
  int16_t* padded = codes + CeilDiv(g_.group_in(), 2) * 2;
  const EntryRounding rounding{call.tables.shift, call.tables.multiplier};
  const int64_t first =
      (int64_t{band.image} * g_.in_h + band.first_input_row + row) * g_.in_w * g_.groups;
  int8_t* target = call.pixels + int64_t{row} * g_.in_w * g_.groups * PixelBytes();
  const float* pixel = call.input + first * g_.group_in();
  for (int x = 0; x < g_.in_w * g_.groups; ++x, pixel += g_.group_in(), target += PixelBytes()) {
    call.kernels.quantize(pixel, call.tables.inverse_scale, LowestCode(call.tables),
                          HighestCode(call.tables), g_.group_in(), codes);
    book_.PadCodes(codes, g_.group_in(), padded);
    for (int m = 0; m < book_.subspaces(); ++m) {
      call.kernels.build_entries(book_.columns(m), book_.column_stride(),
                                 padded + int64_t{2} * m * book_.pairs(), 2, book_.pairs(),
                                 book_.lanes(), rounding, target + int64_t{m} * book_.lanes());
    }
    const int64_t used = int64_t{book_.subspaces()} * book_.lanes();
    std::memset(target + used, 0, PixelBytes() - used);
  }
}

// The tables that the taps of kRows output positions of the band read; those past the end read
// padding.
void CodewordLanes::FindTables(const Call& call, const Band& band, int group, int position,
                               const int8_t** tables) const {
  for (int p = 0; p < kRows; ++p, ++position) {
    const int row = position / g_.out_w;
    const int top = (band.first_row + row) * g_.stride_h - g_.pad_top;
    const int left = position % g_.out_w * g_.stride_w - g_.pad_left;
    for (int t = 0; t < g_.taps(); ++t) {
      const int y = top + t / g_.kernel_w * g_.dilation_h;
      const int x = left + t % g_.kernel_w * g_.dilation_w;
      const bool inside = row < band.rows && y >= 0 && y < g_.in_h && x >= 0 && x < g_.in_w;
      const int64_t pixel = int64_t{y - band.first_input_row} * g_.in_w + x;
      tables[t * kRows + p] =
          inside ? call.pixels + (pixel * g_.groups + group) * PixelBytes() : call.zeros;
    }
  }
}

// One task: 32 output channels of a group, at a part of the band's positions.
void CodewordLanes::LookUp(const Call& call, const Band& band, int task, int thread) const {
  int8_t* own = call.threads + thread * ThreadBytes();
  auto* sums = reinterpret_cast<int32_t*>(own + ThreadBytes() - RoundUp(4 * kRows * kChannels));
  auto** tables = reinterpret_cast<const int8_t**>(reinterpret_cast<int8_t*>(sums) -
                                                   RoundUp(sizeof(int8_t*) * g_.taps() * kRows));
  const int blocks = CeilDiv(g_.group_out(), kChannels);
  const int block = task / splits_ % blocks, group = task / splits_ / blocks;
  const int first = group * g_.group_out() + block * kChannels;
  const int count = std::min(kChannels, g_.group_out() - block * kChannels);
  const int64_t nibble_bytes = SubspaceSlots() / 2 * g_.taps() * kChannels;
  const int positions = band.rows * g_.out_w;
  const int tiles = CeilDiv(positions, kRows);
  const int begin = static_cast<int>(int64_t{tiles} * (task % splits_) / splits_) * kRows;
  const int end = std::min(
      positions, static_cast<int>(int64_t{tiles} * (task % splits_ + 1) / splits_) * kRows);
  float* output =
      call.output + (int64_t{band.image} * g_.out_h + band.first_row) * g_.out_w * g_.out_c + first;
  for (int position = begin; position < end; position += kRows) {
    const int rows = std::min(kRows, end - position);
    FindTables(call, band, group, position, tables);
    std::memset(sums, 0, sizeof(int32_t) * kRows * kChannels);
    if (call.nibbles.empty()) {
      for (int l = 0; l < count; l += 4) {
        const int channels = group * book_.blocks() + (block * kChannels + l) / kLookUpChannels;
        LookUpSingles(tables, book_.indices(channels) + l % kLookUpChannels, book_.subspaces(),
                      g_.taps(), book_.lanes(), rows, sums + l);
      }
    } else {
      call.kernels.look_up_nibbles(
          tables, call.nibbles.data() + (int64_t{group} * blocks + block) * nibble_bytes, g_.taps(),
          static_cast<int>(SubspaceSlots() / 2), sums);
    }
    for (int p = 0; p < rows; ++p) {
      float* pixel = output + (int64_t{position} + p) * g_.out_c;
      for (int l = 0; l < count; ++l) {
        pixel[l] = call.transform.Apply(static_cast<float>(sums[p * kChannels + l]), first + l);
      }
    }
  }
}

void CodewordLanes::Run(const Kernels& kernels, const ByteTables& tables,
                        const std::vector<uint8_t>& nibbles, const OutputTransform& transform,
                        const float* input, float* output, void* scratch, ThreadPool* pool) const {
  auto* zeros = static_cast<int8_t*>(scratch);
  std::memset(zeros, 0, PixelBytes());
  Call call{kernels,
            tables,
            nibbles,
            transform,
            input,
            output,
            zeros,
            zeros + PixelBytes(),
            zeros + ScratchBytes() - ThreadBytes() * num_threads_};
  const int blocks = CeilDiv(g_.group_out(), kChannels);
  for (int image = 0; image < g_.batch; ++image) {
    for (int row = 0; row < g_.out_h; row += rows_) {
      Band band{image, row, std::min(rows_, g_.out_h - row), 0, 0};
      const int top = row * g_.stride_h - g_.pad_top;
      const int bottom =
          top + (band.rows - 1) * g_.stride_h + (g_.kernel_h - 1) * g_.dilation_h + 1;
      band.first_input_row = std::min(std::max(top, 0), g_.in_h);
      band.input_rows = std::max(0, std::min(bottom, g_.in_h) - band.first_input_row);
      pool->ParallelFor(band.input_rows,
                        [&](int task, int thread) { BuildTables(call, band, task, thread); });
      pool->ParallelFor(blocks * g_.groups * splits_,
                        [&](int task, int thread) { LookUp(call, band, task, thread); });
    }
  }
}

std::vector<uint8_t> PackNibbles(const ConvGeometry& g, const ByteCodebook& book) {
  const int blocks = CeilDiv(g.group_out(), kChannels), pairs = CeilDiv(book.subspaces(), 2);
  const int64_t block_bytes = int64_t{g.taps()} * pairs * kChannels;
  std::vector<uint8_t> nibbles(static_cast<size_t>(block_bytes) * blocks * g.groups);
  for (int c = 0; c < g.out_c; ++c) {
    const int in_group = c % g.group_out();
    const int block = c / g.group_out() * blocks + in_group / kChannels;
    const uint8_t* index =
        book.indices(c / g.group_out() * book.blocks() + in_group / kLookUpChannels) +
        in_group % kLookUpChannels;
    for (int m = 0; m < book.subspaces(); ++m) {
      for (int t = 0; t < g.taps(); ++t, index += kLookUpChannels) {
        nibbles[block * block_bytes + (int64_t{t} * pairs + m / 2) * kChannels +
                in_group % kChannels] |= *index << (m % 2 * 4);
      }
    }
  }
  return nibbles;
}

}  // namespace kerasq
