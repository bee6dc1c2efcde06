// Bit-plane weights under float inputs: decoded for a GEMM.
#include <string>
#include <vector>

#include "core/checks.h"
#include "core/gemm_conv.h"
#include "core/kernels.h"
#include "core/operator_classes.h"
#include "core/values.h"

namespace kerasq {
namespace {

constexpr float kOne = 1.0f;

// Float inputs: a 16-bit mask for every plane, block of 16 output channels, and weight.
class WeightOnlyBitplaneConv : public ConvOperator {
 public:
  WeightOnlyBitplaneConv(const ConvGeometry& g, const BitplaneWeights& w)
      : kernels_(SelectKernels()),
        weights_(w),
        name_(std::string("bitplane_weights_") + kernels_.isa),
        row_(static_cast<int64_t>(g.taps()) * g.group_in()),
        taps_(g.taps()),
        depth_(g.group_in()),
        group_out_(g.group_out()),
        blocks_(CeilDiv(g.group_out(), kPanelChannels)),
        plane_stride_(row_ * blocks_ * g.groups),
        masks_(plane_stride_ * w.weight_planes) {
    const int64_t row_bytes = CeilDiv64(row_, 8);
    for (int plane = 0; plane < w.weight_planes; ++plane) {
      for (int c = 0; c < g.out_c; ++c) {
        uint16_t* masks = masks_.data() + plane * plane_stride_ + Block(c) * row_;
        const int lane = c % group_out_ % kPanelChannels;
        const int64_t source = static_cast<int64_t>(plane) * g.out_c + c;
        for (int64_t i = 0; i < row_; ++i) {
          masks[i] |= static_cast<uint16_t>(PlaneBit(w, row_bytes, source, i) << lane);
        }
      }
    }
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return GemmScratchBytes(g, PanelDepth(g, 1), num_threads);
  }

  void Run(const ConvGeometry& g, const void* input, void* output, void* scratch,
           ThreadPool* pool) const override {
    const OutputTransform transform{&kOne, 1, weights_.bias, weights_.bias_size,
                                    weights_.activation};
    const auto decode = [this](int first, int count, int begin, int end, float* panel) {
      Decode(first, count, begin, end, panel);
      return panel;
    };
    GemmConv(g, kernels_, decode, PanelDepth(g, 1), transform,
             static_cast<float>(weights_.pad_value), static_cast<const float*>(input),
             static_cast<float*>(output), scratch, pool);
  }

  const char* kernel_name(const ConvGeometry&) const override { return name_.c_str(); }

 private:
  int64_t Block(int c) const { return c / group_out_ * blocks_ + c % group_out_ / kPanelChannels; }

  void Decode(int first, int count, int begin, int end, float* panel) const {
    float scales[kMaxWeightPlanes * kPanelChannels] = {};
    float offset[kPanelChannels] = {};
    for (int l = 0; l < count; ++l) {
      const int column = weights_.basis_cols == 1 ? 0 : first + l;
      for (int p = 0; p < weights_.weight_planes; ++p) {
        scales[p * kPanelChannels + l] = weights_.basis[p * weights_.basis_cols + column];
      }
      if (weights_.basis_rows > weights_.weight_planes) {
        offset[l] = weights_.basis[weights_.weight_planes * weights_.basis_cols + column];
      }
    }
    const uint16_t* masks = masks_.data() + Block(first) * row_;
    for (int t = 0; t < taps_; ++t, panel += (end - begin) * kPanelChannels) {
      kernels_.decode_planes_x16(masks + t * depth_ + begin, plane_stride_, weights_.weight_planes,
                                 scales, offset, end - begin, panel);
    }
  }

  const Kernels& kernels_;
  const BitplaneWeights weights_;
  const std::string name_;
  const int64_t row_;
  const int taps_, depth_, group_out_, blocks_;
  const int64_t plane_stride_;
  std::vector<uint16_t> masks_;
};

}  // namespace

std::unique_ptr<ConvOperator> MakeWeightOnlyConv(const ConvGeometry& g, const BitplaneWeights& w) {
  return std::make_unique<WeightOnlyBitplaneConv>(g, w);
}

}  // namespace kerasq
