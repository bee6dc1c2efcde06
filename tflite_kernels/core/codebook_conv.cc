// Codebooks: look-up tables shared by all taps and output channels, or decoded for a GEMM.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/gemm_conv.h"
#include "core/kernels.h"
#include "core/operators.h"
#include "core/values.h"

namespace kerasq {
namespace {

// Floats of a look-up table: beyond 512 KiB it leaves the L2 cache of today's cores.
constexpr int64_t kTableFloats = 128 * 1024;

std::string Check(const ConvGeometry& g, const CodebookWeights& w) {
  if (w.subvector < 1) return "subvector must be at least 1";
  if (w.codewords < 1 || w.codewords > 256) {
    return "codewords must be 1 to 256, not " + std::to_string(w.codewords);
  }
  if (w.bits < 1 || w.bits > 8 || w.codewords > 1 << w.bits || w.codewords <= (1 << w.bits) / 2) {
    if (w.codewords != 1 || w.bits != 1) {
      return std::to_string(w.bits) + " bits do not fit " + std::to_string(w.codewords) +
             " codewords";
    }
  }
  if (w.subspaces != CeilDiv(g.group_in(), w.subvector)) {
    return "the indices have " + std::to_string(w.subspaces) + " sub-spaces, the input " +
           std::to_string(CeilDiv(g.group_in(), w.subvector));
  }
  if (w.codebooks != 1 && w.codebooks != w.subspaces) {
    return "there must be 1 codebook or one a sub-space, not " + std::to_string(w.codebooks);
  }
  return "";
}

// The unpacked indices and codewords that both paths use.
struct Unpacked {
  Unpacked(const ConvGeometry& g, const CodebookWeights& w)
      : codewords(static_cast<size_t>(w.codebooks) * w.codewords * w.subvector),
        indices(static_cast<size_t>(w.subspaces) * g.out_c * g.taps()) {
    for (size_t i = 0; i < codewords.size(); ++i) {
      codewords[i] = CodewordElement(w, static_cast<int64_t>(i));
    }
    const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
    for (int t = 0; t < g.taps(); ++t) {
      for (int m = 0; m < w.subspaces; ++m) {
        const uint8_t* row = w.indices + (static_cast<int64_t>(t) * w.subspaces + m) * row_bytes;
        for (int c = 0; c < g.out_c; ++c) {
          const uint8_t index = StreamElement(row, c, w.bits);
          indices[(static_cast<size_t>(m) * g.out_c + c) * g.taps() + t] = index;
          largest = std::max<int>(largest, index);
        }
      }
    }
  }
  std::vector<float> codewords;  // [codebooks][codewords][subvector]
  std::vector<uint8_t> indices;  // [subspaces][out_c][taps]
  int largest = 0;
};

class CodebookConv : public ConvOperator {
 public:
  CodebookConv(const ConvGeometry& g, const CodebookWeights& w, Unpacked unpacked)
      : kernels_(SelectKernels()),
        weights_(w),
        unpacked_(std::move(unpacked)),
        taps_(g.taps()),
        out_c_(g.out_c),
        gemm_name_(std::string("codebook_gemm_") + kernels_.isa),
        look_up_name_(std::string("codebook_look_up_") + kernels_.isa),
        prefers_look_up_(LookUpPays(g)) {}

  const char* kernel_name() const override {
    return prefers_look_up_ ? look_up_name_.c_str() : gemm_name_.c_str();
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    if (UseLookUp(g)) {
      const Band band(Flat(g), weights_);
      return sizeof(float) * static_cast<size_t>(band.total()) * num_threads;
    }
    if (UseSingle(g)) return sizeof(float) * SingleFloats(g) * num_threads;
    return GemmScratchBytes(g, PanelDepth(g, weights_.subvector), num_threads);
  }

  void Run(const ConvGeometry& g, const float* input, float* output, void* scratch,
           ThreadPool* pool) const override {
    if (UseLookUp(g)) {
      RunLookUp(g, input, output, static_cast<float*>(scratch), pool);
    } else if (UseSingle(g)) {
      RunSingle(g, input, output, static_cast<float*>(scratch), pool);
    } else {
      const auto decode = [this](int first, int count, int begin, int end, float* panel) {
        Decode(first, count, begin, end, panel);
      };
      GemmConv(g, kernels_, decode, PanelDepth(g, weights_.subvector), Transform(), 0.0f, input,
               output, scratch, pool);
    }
  }

 private:
  // A band of output rows of one image, and its input in planes: one plane for each pair of phases
  // (row mod stride, column mod stride), so that a tap of any stride and dilation reads
  // neighbouring elements for neighbouring outputs. Outputs are numbered with the planes' pitch.
  struct Band {
    Band(const ConvGeometry& g, const CodebookWeights& w)
        : pitch(CeilDiv((g.out_w - 1) * g.stride_w + Span(g.kernel_w, g.dilation_w), g.stride_w)) {
      const int span = Span(g.kernel_h, g.dilation_h);
      const int64_t phases = static_cast<int64_t>(g.stride_h) * g.stride_w;
      const auto plane_for = [&](int out_rows) {
        const int in_rows = CeilDiv((out_rows - 1) * g.stride_h + span, g.stride_h);
        return CeilDiv64(static_cast<int64_t>(in_rows) * pitch + kLookupPositions, 8) * 8;
      };
      rows = g.out_h;
      while (rows > 1 && plane_for(rows) * phases * w.codewords > kTableFloats) {
        rows = (rows + 1) / 2;
      }
      plane = plane_for(rows);
      stride = plane * phases;
      sums_stride = CeilDiv64(static_cast<int64_t>(rows) * pitch, kLookupPositions) *
                    kLookupPositions;
      sums = sums_stride * g.group_out();
      table = CeilDiv64(stride * w.codewords, 16) * 16;
      pixels = CeilDiv64(stride * w.subvector, 16) * 16;
      taps = 2LL * g.taps();
    }
    static int Span(int kernel, int dilation) { return (kernel - 1) * dilation + 1; }
    // Floats of one thread: the table; the pixels, into which the last tile of the last codeword
    // may read; the sums; and pointers to the taps, of two floats each.
    int64_t total() const { return CeilDiv64(table + pixels + sums + taps, 16) * 16; }
    int pitch, rows;
    int64_t plane, stride, sums_stride, sums, table, pixels, taps;
  };

  // A 1x1 convolution without strides is one long row: no borders, whatever the map's shape.
  static ConvGeometry Flat(const ConvGeometry& g) {
    if (g.taps() != 1 || g.stride_h != 1 || g.stride_w != 1 || g.pad_top != 0 ||
        g.pad_left != 0 || g.in_h != g.out_h || g.in_w != g.out_w) {
      return g;
    }
    ConvGeometry flat = g;
    const int64_t pixels = static_cast<int64_t>(g.batch) * g.in_h * g.in_w;
    // Rows of one tile; the last row may be shorter (RunLookUp knows how many pixels there are).
    flat.batch = 1;
    flat.in_h = flat.out_h = static_cast<int>(CeilDiv64(pixels, kLookupPositions));
    flat.in_w = flat.out_w = kLookupPositions;
    return flat;
  }

  // Additions and multiplications a position: a table of K words of d elements for every input
  // against one sum of all weights. A look-up costs more than a fused multiply-add (it loads).
  bool LookUpPays(const ConvGeometry& g) const {
    if (weights_.subvector < 2) return false;
    const double in = g.group_in();
    const double look_up = in * weights_.codewords * g.stride_h * g.stride_w +
                           2.0 * weights_.subspaces * g.taps() * g.group_out();
    return look_up < in * g.taps() * g.group_out();
  }

  bool UseLookUp(const ConvGeometry& g) const {
    const int64_t positions = static_cast<int64_t>(g.batch) * g.out_h * g.out_w;
    return prefers_look_up_ && positions >= 8;
  }

  // Few positions (a dense layer of batch 1): lanes would be empty; add table entries one by one.
  bool UseSingle(const ConvGeometry& g) const {
    const int64_t positions = static_cast<int64_t>(g.batch) * g.out_h * g.out_w;
    return prefers_look_up_ && positions < 8;
  }

  OutputTransform Transform() const {
    return {weights_.multiplier, weights_.multiplier_size, weights_.bias, weights_.bias_size,
            weights_.activation};
  }

  const float* Codewords(int m) const {
    const int64_t book = weights_.codebooks == 1 ? 0 : m;
    return unpacked_.codewords.data() + book * weights_.codewords * weights_.subvector;
  }

  const uint8_t* Indices(int m, int c) const {
    return unpacked_.indices.data() + (static_cast<size_t>(m) * out_c_ + c) * taps_;
  }

  // Length of sub-space m: the last one may be shorter.
  int Length(const ConvGeometry& g, int m) const {
    return std::min(weights_.subvector, g.group_in() - m * weights_.subvector);
  }

  void Decode(int first, int count, int begin, int end, float* panel) const {
    const int d = weights_.subvector;
    std::memset(panel, 0, sizeof(float) * taps_ * (end - begin) * kPanelChannels);
    for (int t = 0; t < taps_; ++t) {
      for (int m = begin / d; m * d < end; ++m) {
        const float* codewords = Codewords(m);
        const int length = std::min(d, end - m * d);
        float* rows = panel + (static_cast<int64_t>(t) * (end - begin) + m * d - begin) *
                                  kPanelChannels;
        for (int l = 0; l < count; ++l) {
          const float* codeword = codewords + Indices(m, first + l)[t] * d;
          for (int j = 0; j < length; ++j) rows[j * kPanelChannels + l] = codeword[j];
        }
      }
    }
  }

  void RunLookUp(const ConvGeometry& original, const float* input, float* output, float* scratch,
                 ThreadPool* pool) const;
  void AddSubspace(const ConvGeometry& g, const Band& band, int m, int first_out, int64_t tiles,
                   const float* table, const float** taps, float* sums) const;
  void FillPixels(const ConvGeometry& g, const Band& band, const float* image, int64_t pixels,
                  int first_row, int rows, int first_channel, int length, float* planes) const;
  void RunSingle(const ConvGeometry& g, const float* input, float* output, float* scratch,
                 ThreadPool* pool) const;
  int64_t SingleFloats(const ConvGeometry& g) const {
    return CeilDiv64(static_cast<int64_t>(weights_.codewords) + g.group_out(), 16) * 16;
  }

  const Kernels& kernels_;
  const CodebookWeights weights_;
  const Unpacked unpacked_;
  const int taps_, out_c_;
  const std::string gemm_name_, look_up_name_;
  const bool prefers_look_up_;
};

// planes[j][phase][row][column] of `length` channels; padding, and what lies past `pixels`, is 0.
void CodebookConv::FillPixels(const ConvGeometry& g, const Band& band, const float* image,
                              int64_t pixels, int first_row, int rows, int first_channel,
                              int length, float* planes) const {
  std::memset(planes, 0, sizeof(float) * band.pixels);
  const int in_rows = (rows - 1) * g.stride_h + Band::Span(g.kernel_h, g.dilation_h);
  const int in_columns = (g.out_w - 1) * g.stride_w + Band::Span(g.kernel_w, g.dilation_w);
  for (int r = 0; r < in_rows; ++r) {
    const int y = first_row * g.stride_h - g.pad_top + r;
    if (y < 0 || y >= g.in_h) continue;
    for (int q = 0; q < in_columns; ++q) {
      const int x = q - g.pad_left;
      const int64_t pixel = static_cast<int64_t>(y) * g.in_w + x;
      if (x < 0 || x >= g.in_w || pixel >= pixels) continue;
      const float* source = image + pixel * g.in_c + first_channel;
      const int64_t phase = static_cast<int64_t>(r % g.stride_h) * g.stride_w + q % g.stride_w;
      float* target = planes + phase * band.plane +
                      static_cast<int64_t>(r / g.stride_h) * band.pitch + q / g.stride_w;
      for (int j = 0; j < length; ++j) target[j * band.stride] = source[j];
    }
  }
}

// sums += the entries of sub-space m's table, tile after tile of output positions.
void CodebookConv::AddSubspace(const ConvGeometry& g, const Band& band, int m, int first_out,
                               int64_t tiles, const float* table, const float** taps,
                               float* sums) const {
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int t = 0; t < taps_; ++t) {
      const int r = t / g.kernel_w * g.dilation_h, q = t % g.kernel_w * g.dilation_w;
      const int64_t phase = static_cast<int64_t>(r % g.stride_h) * g.stride_w + q % g.stride_w;
      taps[t] = table + phase * band.plane + static_cast<int64_t>(r / g.stride_h) * band.pitch +
                q / g.stride_w + tile * kLookupPositions;
    }
    kernels_.look_up_x64(taps, taps_, band.stride, Indices(m, first_out), g.group_out(),
                         sums + tile * kLookupPositions, band.sums_stride);
  }
}

// for every band of rows and group:
//   for every sub-space:  table = codewords x pixels;  sums += table[index] for every tap
//   output = transform(sums), turned back to channels innermost
void CodebookConv::RunLookUp(const ConvGeometry& original, const float* input, float* output,
                             float* scratch, ThreadPool* pool) const {
  const ConvGeometry g = Flat(original);
  const int images = original.batch / g.batch;  // that one image of g holds
  const int64_t pixels = static_cast<int64_t>(original.in_h) * original.in_w * images;
  const int64_t positions = static_cast<int64_t>(original.out_h) * original.out_w * images;
  const Band band(g, weights_);
  const int bands = CeilDiv(g.out_h, band.rows);
  const OutputTransform transform = Transform();
  pool->ParallelFor(g.batch * bands * g.groups, [&](int task, int thread) {
    float* table = scratch + thread * band.total();
    float* planes = table + band.table;
    float* sums = planes + band.pixels;
    const float** taps = reinterpret_cast<const float**>(sums + band.sums);
    const int group = task % g.groups;
    const int first_row = task / g.groups % bands * band.rows;
    const int n = task / g.groups / bands;
    const int rows = std::min(band.rows, g.out_h - first_row);
    const int first_out = group * g.group_out();
    const int64_t tiles = CeilDiv64(static_cast<int64_t>(rows) * band.pitch, kLookupPositions);
    std::memset(sums, 0, sizeof(float) * band.sums);
    for (int m = 0; m < weights_.subspaces; ++m) {
      FillPixels(g, band, input + n * pixels * g.in_c, pixels, first_row, rows,
                 group * g.group_in() + m * weights_.subvector, Length(g, m), planes);
      kernels_.build_table(Codewords(m), weights_.codewords, weights_.subvector, planes,
                           band.stride, band.stride, table);
      AddSubspace(g, band, m, first_out, tiles, table, taps, sums);
    }
    for (int y = 0; y < rows; ++y) {
      for (int x = 0; x < g.out_w; ++x) {
        const int64_t position = static_cast<int64_t>(first_row + y) * g.out_w + x;
        if (position >= positions) break;
        float* pixel = output + (n * positions + position) * g.out_c + first_out;
        const float* sum = sums + static_cast<int64_t>(y) * band.pitch + x;
        for (int c = 0; c < g.group_out(); ++c) {
          pixel[c] = transform.Apply(sum[c * band.sums_stride], first_out + c);
        }
      }
    }
  });
}

void CodebookConv::RunSingle(const ConvGeometry& g, const float* input, float* output,
                             float* scratch, ThreadPool* pool) const {
  const int64_t positions = static_cast<int64_t>(g.batch) * g.out_h * g.out_w;
  const OutputTransform transform = Transform();
  pool->ParallelFor(static_cast<int>(positions) * g.groups, [&](int task, int thread) {
    float* table = scratch + thread * SingleFloats(g);
    float* sums = table + weights_.codewords;
    const int group = task % g.groups;
    const int64_t position = task / g.groups;
    const int ox = static_cast<int>(position % g.out_w);
    const int oy = static_cast<int>(position / g.out_w % g.out_h);
    const int64_t n = position / g.out_w / g.out_h;
    const int first_out = group * g.group_out();
    std::memset(sums, 0, sizeof(float) * g.group_out());
    for (int t = 0; t < taps_; ++t) {
      const int y = oy * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
      const int x = ox * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
      if (y < 0 || y >= g.in_h || x < 0 || x >= g.in_w) continue;
      const float* pixel =
          input + ((n * g.in_h + y) * g.in_w + x) * g.in_c + group * g.group_in();
      for (int m = 0; m < weights_.subspaces; ++m) {
        const float* codeword = Codewords(m);
        const int length = Length(g, m);
        for (int k = 0; k < weights_.codewords; ++k, codeword += weights_.subvector) {
          float sum = 0.0f;
          for (int j = 0; j < length; ++j) {
            sum += codeword[j] * pixel[m * weights_.subvector + j];
          }
          table[k] = sum;
        }
        const uint8_t* indices = Indices(m, first_out) + t;
        for (int c = 0; c < g.group_out(); ++c) sums[c] += table[indices[c * taps_]];
      }
    }
    float* pixel = output + position * g.out_c + first_out;
    for (int c = 0; c < g.group_out(); ++c) pixel[c] = transform.Apply(sums[c], first_out + c);
  });
}

}  // namespace

std::unique_ptr<ConvOperator> MakeCodebookConv(const ConvGeometry& g, const CodebookWeights& w,
                                               std::string* error) {
  *error = Check(g, w);
  if (!error->empty()) return nullptr;
  Unpacked unpacked(g, w);
  if (unpacked.largest >= w.codewords) {
    *error = "an index is " + std::to_string(unpacked.largest) + ", past its codebook of " +
             std::to_string(w.codewords) + " codewords";
    return nullptr;
  }
  return std::make_unique<CodebookConv>(g, w, std::move(unpacked));
}

}  // namespace kerasq
