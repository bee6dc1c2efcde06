#include "core/decoded_conv.h"

#include <algorithm>
#include <utility>

#include "core/checks.h"
#include "core/gemm_conv.h"
#include "core/kernels.h"
#include "core/operator_classes.h"
#include "core/values.h"

namespace kerasq {
namespace {

constexpr int64_t kMaxFloats = int64_t{1} << 28;  // 1 GiB

class DecodedConv : public ConvOperator {
 public:
  DecodedConv(const std::string& name, DecodedKernel kernel, const OutputTransform& transform)
      : kernels_(SelectKernels()),
        kernel_(std::move(kernel)),
        transform_(transform),
        name_(name + "_gemm_" + kernels_.isa) {}

  const char* kernel_name(const ConvGeometry&) const override { return name_.c_str(); }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return GemmScratchBytes(g, kernel_.panel_depth(), num_threads);
  }

  void Run(const ConvGeometry& g, const void* input, void* output, void* scratch,
           ThreadPool* pool) const override {
    const auto find = [this](int first, int, int begin, int, float*) {
      return kernel_.panel(first, begin);
    };
    GemmConv(g, kernels_, find, kernel_.panel_depth(), transform_, 0.0f,
             static_cast<const float*>(input), static_cast<float*>(output), scratch, pool);
  }

 private:
  const Kernels& kernels_;
  const DecodedKernel kernel_;
  const OutputTransform transform_;
  const std::string name_;
};

}  // namespace

std::string DecodedKernel::Check(const ConvGeometry& g) {
  const int64_t lanes =
      static_cast<int64_t>(g.groups) * CeilDiv(g.group_out(), kPanelChannels) * kPanelChannels;
  // The factors' product fits in 64 bits: CheckGeometry bounds the first two.
  if (static_cast<int64_t>(g.taps()) * g.group_in() > kMaxFloats / lanes) {
    return "its kernel takes more than 2^28 floats, with the outputs of a group rounded up to a "
           "multiple of 16: too many to decode into memory";
  }
  return "";
}

DecodedKernel::DecodedKernel(const ConvGeometry& g)
    : taps_(g.taps()),
      group_in_(g.group_in()),
      group_out_(g.group_out()),
      blocks_(CeilDiv(g.group_out(), kPanelChannels)),
      panel_depth_(PanelDepth(g, 1)),
      values_(static_cast<size_t>(g.groups) * blocks_ * kPanelChannels * taps_ * group_in_) {}

int64_t DecodedKernel::Index(int tap, int input, int output) const {
  const int lane = output % group_out_;
  const int64_t block = output / group_out_ * blocks_ + lane / kPanelChannels;
  const int begin = input / panel_depth_ * panel_depth_;
  const int depth = std::min(panel_depth_, group_in_ - begin);
  const int64_t row = (block * group_in_ + begin) * taps_ + tap * depth + (input - begin);
  return row * kPanelChannels + lane % kPanelChannels;
}

std::unique_ptr<ConvOperator> MakeDecodedConv(const ConvGeometry& g, const std::string& name,
                                              DecodedKernel kernel,
                                              const OutputTransform& transform) {
  if (g.group_in() > 1) return std::make_unique<DecodedConv>(name, std::move(kernel), transform);
  std::vector<float> weights;
  weights.reserve(static_cast<size_t>(g.taps()) * g.out_c);
  for (int t = 0; t < g.taps(); ++t) {
    for (int c = 0; c < g.out_c; ++c) weights.push_back(kernel.at(t, 0, c));
  }
  return MakeDepthwiseConv(g, name, std::move(weights), transform);
}

std::unique_ptr<DecodedKernel> DecodeCodebook(const ConvGeometry& g, const CodebookWeights& w,
                                              std::string* error) {
  auto kernel = std::make_unique<DecodedKernel>(g);
  const int positions = w.by_channel ? 1 : g.taps();
  const int length = w.by_channel ? g.taps() * g.group_in() : g.group_in();  // of what d cuts
  const uint8_t* row = w.indices;
  for (int p = 0; p < positions; ++p) {
    for (int m = 0; m < w.subspaces; ++m, row += CeilDiv64(int64_t{g.out_c} * w.bits, 8)) {
      const int first = m * w.subvector, last = std::min(length, first + w.subvector);
      const int64_t book = static_cast<int64_t>(w.codebooks == 1 ? 0 : m) * w.codewords;
      for (int c = 0; c < g.out_c; ++c) {
        const int index = StreamElement(row, c, w.bits);
        if (index >= w.codewords) {
          *error = PastCodebook(index, w.codewords);
          return nullptr;
        }
        const int64_t codeword = (book + index) * w.subvector;
        for (int r = first; r < last; ++r) {
          const int tap = w.by_channel ? r % g.taps() : p;
          const int input = w.by_channel ? r / g.taps() : r;
          kernel->at(tap, input, c) = CodewordElement(w, codeword + r - first);
        }
      }
    }
  }
  return kernel;
}

}  // namespace kerasq
