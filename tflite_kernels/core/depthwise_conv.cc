// One input channel a group: lanes are channels.
#include <string>
#include <utility>
#include <vector>

#include "core/kernels.h"
#include "core/operator_classes.h"
#include "core/output_transform.h"
#include "core/values.h"

namespace kerasq {
namespace {

// Weights and inputs as the sums see them, and what is left for the output.
struct DepthwiseModel {
  std::vector<float> weights;     // [taps][out_c]
  std::vector<float> multiplier;  // [1 or out_c]
  std::vector<float> levels;      // the value of every input code; empty: inputs as they are
  float pad_value = 0.0f;         // of the input, before it is quantized; 0: contributes nothing
  BitplaneWeights quantizer{};    // of the input, where there are levels
  const float* bias = nullptr;
  int bias_size = 1;
  Activation activation = Activation::kNone;
};

class DepthwiseConv : public ConvOperator {
 public:
  DepthwiseConv(const ConvGeometry& g, const std::string& name, DepthwiseModel model)
      : kernels_(SelectKernels()),
        model_(std::move(model)),
        name_(name + kernels_.isa),
        padding_(g.in_c, model_.pad_value) {
    if (!model_.levels.empty()) Quantize(padding_.data(), 1, g.in_c, padding_.data());
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    return static_cast<size_t>(QuantizedFloats(g)) * sizeof(float) +
           static_cast<size_t>(PointerBytes(g)) * num_threads;
  }

  void Run(const ConvGeometry& g, const void* input, void* output, void* scratch,
           ThreadPool* pool) const override {
    const float* x = static_cast<const float*>(input);
    float* y = static_cast<float*>(output);
    char* pointers = static_cast<char*>(scratch) + QuantizedFloats(g) * sizeof(float);
    if (!model_.levels.empty()) {
      float* quantized = static_cast<float*>(scratch);
      const int64_t row = static_cast<int64_t>(g.in_w) * g.in_c;
      pool->ParallelFor(g.batch * g.in_h, [&](int i, int) {
        Quantize(x + i * row, g.in_w, g.in_c, quantized + i * row);
      });
      x = quantized;
    }
    pool->ParallelFor(g.batch * g.out_h, [&](int row, int thread) {
      OutputRow(g, x, row, reinterpret_cast<const float**>(pointers + thread * PointerBytes(g)),
                y + static_cast<int64_t>(row) * g.out_w * g.out_c);
    });
  }

  const char* kernel_name(const ConvGeometry&) const override { return name_.c_str(); }

 private:
  int64_t QuantizedFloats(const ConvGeometry& g) const {
    if (model_.levels.empty()) return 0;
    return CeilDiv64(static_cast<int64_t>(g.batch) * g.in_h * g.in_w * g.in_c, 16) * 16;
  }

  // Of the inputs and weights of every tap.
  static int64_t PointerBytes(const ConvGeometry& g) {
    return CeilDiv64(2LL * g.taps() * static_cast<int64_t>(sizeof(float*)), 64) * 64;
  }

  void Quantize(const float* x, int pixels, int channels, float* values) const {
    for (int i = 0; i < pixels; ++i, x += channels, values += channels) {
      for (int c = 0; c < channels; ++c) {
        values[c] = model_.levels[InputCode(model_.quantizer, x[c], c)];
      }
    }
  }

  void OutputRow(const ConvGeometry& g, const float* input, int row, const float** inputs,
                 float* output) const {
    const OutputTransform transform = {model_.multiplier.data(),
                                       static_cast<int>(model_.multiplier.size()), model_.bias,
                                       model_.bias_size, model_.activation};
    const float** weights = inputs + g.taps();
    const float* image = input + static_cast<int64_t>(row / g.out_h) * g.in_h * g.in_w * g.in_c;
    for (int ox = 0; ox < g.out_w; ++ox, output += g.out_c) {
      int taps = 0;
      for (int t = 0; t < g.taps(); ++t) {
        const int y = row % g.out_h * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
        const int x = ox * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
        const bool inside = y >= 0 && y < g.in_h && x >= 0 && x < g.in_w;
        if (!inside && model_.pad_value == 0.0f) continue;
        inputs[taps] =
            inside ? image + (static_cast<int64_t>(y) * g.in_w + x) * g.in_c : padding_.data();
        weights[taps++] = model_.weights.data() + static_cast<int64_t>(t) * g.out_c;
      }
      kernels_.depthwise(inputs, weights, taps, g.out_c, g.group_out(), output);
      for (int c = 0; c < g.out_c; ++c) output[c] = transform.Apply(output[c], c);
    }
  }

  const Kernels& kernels_;
  const DepthwiseModel model_;
  const std::string name_;
  std::vector<float> padding_;  // [in_c]
};

// The sum of +-scales that `bits` select.
float Combine(unsigned bits, const float* scales, int64_t stride, int planes, bool offset) {
  float value = 0.0f;
  for (int p = 0; p < planes; ++p) {
    value += (bits >> p & 1) ? scales[p * stride] : -scales[p * stride];
  }
  return offset ? value + scales[planes * stride] : value;
}

}  // namespace

// One plane of each: the sums are integers, and the scales multiply the output.
std::unique_ptr<ConvOperator> MakeDepthwiseConv(const ConvGeometry& g, const BitplaneWeights& w) {
  const bool integers =
      w.weight_planes == 1 && w.input_planes == 1 && w.basis_rows == 1 && w.input_basis_size == 1;
  DepthwiseModel model;
  model.weights.resize(static_cast<size_t>(g.taps()) * g.out_c);
  const int64_t row_bytes = CeilDiv64(g.taps(), 8);
  const float one = 1.0f;
  for (int c = 0; c < g.out_c; ++c) {
    const float* basis = integers ? &one : w.basis + (w.basis_cols == 1 ? 0 : c);
    for (int t = 0; t < g.taps(); ++t) {
      unsigned bits = 0;
      for (int p = 0; p < w.weight_planes; ++p) {
        const int64_t row = static_cast<int64_t>(p) * g.out_c + c;
        bits |= static_cast<unsigned>(PlaneBit(w, row_bytes, row, t)) << p;
      }
      model.weights[static_cast<size_t>(t) * g.out_c + c] =
          Combine(bits, basis, w.basis_cols, w.weight_planes, w.basis_rows > w.weight_planes);
    }
  }
  for (int code = 0; w.input_planes > 0 && code <= w.num_thresholds; ++code) {
    model.levels.push_back(Combine(w.level_bits[code], integers ? &one : w.input_basis, 1,
                                   w.input_planes, w.input_basis_size > w.input_planes));
  }
  model.multiplier = {1.0f};
  if (integers) {
    model.multiplier.assign(w.basis, w.basis + w.basis_cols);
    for (float& m : model.multiplier) m *= w.input_basis[0];
  }
  model.pad_value = static_cast<float>(w.pad_value);
  model.quantizer = w;
  model.bias = w.bias;
  model.bias_size = w.bias_size;
  model.activation = w.activation;
  return std::make_unique<DepthwiseConv>(g, "bitplane_depthwise_", std::move(model));
}

std::unique_ptr<ConvOperator> MakeDepthwiseConv(const ConvGeometry& g, const CodebookWeights& w,
                                                const PackedCodebook& book) {
  std::vector<float> weights(static_cast<size_t>(g.taps()) * g.out_c);
  for (int c = 0; c < g.out_c; ++c) {
    const int lane = c % g.group_out();
    const int block = c / g.group_out() * book.blocks() + lane / kLookUpChannels;
    for (int t = 0; t < g.taps(); ++t) {
      const int index = book.indices(block, t / g.kernel_w,
                                     0)[t % g.kernel_w * kLookUpChannels + lane % kLookUpChannels];
      weights[static_cast<size_t>(t) * g.out_c + c] = book.codewords(0)[index * book.subvector()];
    }
  }
  return MakeDepthwiseConv(g, "codebook", std::move(weights), TransformOf(w));
}

std::unique_ptr<ConvOperator> MakeDepthwiseConv(const ConvGeometry& g, const std::string& name,
                                                std::vector<float> weights,
                                                const OutputTransform& transform) {
  DepthwiseModel model;
  model.weights = std::move(weights);
  model.multiplier.assign(transform.multiplier, transform.multiplier + transform.multiplier_size);
  model.bias = transform.bias;
  model.bias_size = transform.bias_size;
  model.activation = transform.activation;
  return std::make_unique<DepthwiseConv>(g, name + "_depthwise_", std::move(model));
}

}  // namespace kerasq
