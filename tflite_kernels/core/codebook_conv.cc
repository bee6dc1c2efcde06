// Codebooks: look-up tables shared by all taps and output channels, or decoded for a GEMM.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/gemm_conv.h"
#include "core/kernels.h"
#include "core/lookup_conv.h"
#include "core/operator_classes.h"
#include "core/output_transform.h"
#include "core/packed_codebook.h"
#include "core/values.h"

namespace kerasq {
namespace {

// The plan's estimate, of loads that all hit the cache, in cycles of the GEMM's: as measured on
// shapes from 16 channels at 32x32 to 512 at 7x7.
constexpr double kLookUpCycle = 1.7;

class CodebookConv : public ConvOperator {
 public:
  CodebookConv(const CodebookWeights& w, PackedCodebook book, CodebookPath path)
      : kernels_(SelectKernels()),
        weights_(w),
        book_(std::move(book)),
        path_(path),
        gemm_name_(std::string("codebook_gemm_") + kernels_.isa),
        look_up_name_(std::string("codebook_look_up_") + kernels_.isa) {}

  const char* kernel_name(const ConvGeometry& g) const override {
    return (UsesLookUp(g) ? look_up_name_ : gemm_name_).c_str();
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    if (UsesLookUp(g)) return LookUpScratchBytes(LookUpPlan(g, book_), book_, num_threads);
    return GemmScratchBytes(g, PanelDepth(g, weights_.subvector), num_threads);
  }

  void Run(const ConvGeometry& g, const void* input, void* output, void* scratch,
           ThreadPool* pool) const override {
    const OutputTransform transform = TransformOf(weights_);
    if (UsesLookUp(g)) {
      LookUpConv(LookUpPlan(g, book_), book_, kernels_, transform, static_cast<const float*>(input),
                 static_cast<float*>(output), scratch, pool);
      return;
    }
    const auto decode = [&](int first, int count, int begin, int end, float* panel) {
      Decode(g, first, count, begin, end, panel);
      return panel;
    };
    GemmConv(g, kernels_, decode, PanelDepth(g, weights_.subvector), transform, 0.0f,
             static_cast<const float*>(input), static_cast<float*>(output), scratch, pool);
  }

 private:
  // Estimates for one image, in cycles: two vectors of 8 multiply-adds in one, tiles of 6 positions
  // by 16 channels, and the decoding of every weight (a vector at a time from small codebooks),
  // against the plan's own. The batch has no say: the two ways add in different orders, and an
  // image must give the same result in any batch.
  bool UsesLookUp(ConvGeometry g) const {
    if (path_ != CodebookPath::kCheaper) return path_ == CodebookPath::kLookUp;
    g.batch = 1;
    const double tiles = std::ceil(static_cast<double>(g.out_h) * g.out_w / kGemmRows);
    const double lanes =
        static_cast<double>(g.groups) * CeilDiv(g.group_out(), kPanelChannels) * kPanelChannels;
    const double weights = static_cast<double>(g.taps()) * g.group_in() * lanes;
    const double decode = book_.has_columns() ? 0.3 : 1.0;
    const double gemm = weights * (tiles * kGemmRows / 15.0 + decode);
    return kLookUpCycle * LookUpPlan(g, book_).cost < gemm;
  }

  // Sub-vectors of two blocks of 8 channels, turned into columns of the panel.
  void Decode(const ConvGeometry& g, int first, int count, int begin, int end, float* panel) const {
    const int d = book_.subvector();
    const int block =
        first / g.group_out() * book_.blocks() + first % g.group_out() / kLookUpChannels;
    const int64_t next_block = count > kLookUpChannels ? book_.block_pitch() : 0;
    for (int ky = 0; ky < g.kernel_h; ++ky) {
      for (int m = begin / d; m * d < end; ++m) {
        const int length = std::min(d, end - m * d);
        const uint8_t* indices = book_.indices(block, ky, m);
        for (int kx = 0; kx < g.kernel_w; ++kx, indices += kLookUpChannels) {
          const int64_t row = static_cast<int64_t>(ky * g.kernel_w + kx) * (end - begin);
          float* rows = panel + (row + m * d - begin) * kPanelChannels;
          DecodeSubvectors(indices, indices + next_block, m, length, rows);
        }
      }
    }
  }

  void DecodeSubvectors(const uint8_t* low, const uint8_t* high, int m, int length,
                        float* rows) const {
    if (book_.has_columns()) {
      kernels_.decode_codewords_x16(low, high, book_.columns(m), length, rows);
      return;
    }
    const int d = book_.subvector();
    const float* codewords = book_.codewords(m);
    for (int l = 0; l < kPanelChannels; ++l) {
      const float* codeword =
          codewords + (l < kLookUpChannels ? low[l] : high[l - kLookUpChannels]) * d;
      for (int j = 0; j < length; ++j) rows[j * kPanelChannels + l] = codeword[j];
    }
  }

  const Kernels& kernels_;
  const CodebookWeights weights_;
  const PackedCodebook book_;
  const CodebookPath path_;
  const std::string gemm_name_, look_up_name_;
};

}  // namespace

std::unique_ptr<ConvOperator> MakeLookUpOrGemmConv(const ConvGeometry&, const CodebookWeights& w,
                                                   PackedCodebook book, CodebookPath path) {
  return std::make_unique<CodebookConv>(w, std::move(book), path);
}

}  // namespace kerasq
