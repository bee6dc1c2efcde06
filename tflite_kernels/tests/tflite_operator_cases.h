// A bit-plane operator and its tensors, for the tests of the operators and of the delegate.
#ifndef KERASQ_TESTS_TFLITE_OPERATOR_CASES_H_
#define KERASQ_TESTS_TFLITE_OPERATOR_CASES_H_

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/reference.h"
#include "tests/tflite_fake_runtime.h"

namespace kerasq {

using Values = std::map<std::string, int64_t>;

inline std::vector<float> RandomFloats(std::mt19937* random, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(*random);
  return values;
}

inline std::vector<uint8_t> RandomBytes(std::mt19937* random, size_t count) {
  std::vector<uint8_t> values(count);
  for (uint8_t& value : values) value = static_cast<uint8_t>((*random)());
  return values;
}

// A bit-plane operator of one weight plane and quantized input, and its tensors.
struct BitplaneCase {
  bool dense = false;
  std::vector<int> input_shape = {2, 5, 6, 4};
  int channels = 6;
  Values options = {{"version", 1},       {"activation", 1},  {"kernel_h", 3},
                    {"kernel_w", 3},      {"stride_h", 2},    {"stride_w", 1},
                    {"dilation_h", 1},    {"dilation_w", 1},  {"padding", 0},
                    {"groups", 2},        {"pad_value", 1},   {"channels_out", 6},
                    {"weight_planes", 1}, {"input_planes", 1}};
  std::vector<uint8_t> planes;
  std::vector<float> basis, bias, thresholds, direction = {1.0f}, input_basis = {0.5f};
  std::vector<uint8_t> level_bits = {0, 1};

  explicit BitplaneCase(bool is_dense = false) : dense(is_dense) {
    std::mt19937 random(3);
    planes = RandomBytes(&random, channels * RowBytes());
    basis = RandomFloats(&random, channels);
    bias = RandomFloats(&random, channels);
    thresholds = RandomFloats(&random, 1);
  }

  const char* Name() const { return dense ? "KerasqBitplaneDense" : "KerasqBitplaneConv2D"; }
  int RowBytes() const { return ((dense ? 4 : 9 * 2) + 7) / 8; }

  // Returns the input; the output is the tensor after it.
  int AddTo(FakeRuntime* runtime, int input = -1) const {
    if (input < 0) input = runtime->AddTensor(kTfLiteFloat32, input_shape);
    const int output = runtime->AddTensor(kTfLiteFloat32, {1});
    const std::vector<int> inputs = {
        input,
        runtime->AddConstant(kTfLiteUInt8, {1, channels, RowBytes()}, planes),
        runtime->AddConstant(kTfLiteFloat32, {1, channels}, basis),
        runtime->AddConstant(kTfLiteFloat32, {channels}, bias),
        runtime->AddConstant(kTfLiteFloat32, {1, 1}, thresholds),
        runtime->AddConstant(kTfLiteFloat32, {1}, direction),
        runtime->AddConstant(kTfLiteUInt8, {2}, level_bits),
        runtime->AddConstant(kTfLiteFloat32, {1}, input_basis)};
    runtime->AddNode(Name(), inputs, output, EncodeOptions(options));
    return input;
  }

  std::vector<float> Expect(const std::vector<float>& input, const ConvGeometry& geometry) const {
    BitplaneWeights weights = {};
    weights.weight_planes = weights.input_planes = weights.basis_rows = 1;
    weights.pad_value = dense ? 0 : 1;
    weights.activation = Activation::kRelu;
    weights.planes = planes.data();
    weights.basis = basis.data();
    weights.basis_cols = weights.bias_size = channels;
    weights.bias = bias.data();
    weights.thresholds = thresholds.data();
    weights.direction = direction.data();
    weights.level_bits = level_bits.data();
    weights.input_basis = input_basis.data();
    weights.threshold_rows = weights.num_thresholds = 1;
    weights.direction_size = weights.input_basis_size = 1;
    std::vector<float> output(geometry.batch * geometry.out_h * geometry.out_w * channels);
    ReferenceBitplaneConv(geometry, weights, input.data(), output.data());
    return output;
  }
};

inline void ExpectNear(const float* actual, const std::vector<float>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], 1e-4 * (1 + std::fabs(expected[i]))) << i;
  }
}

inline ConvGeometry ConvolutionOf(int batch, int height, int out_height) {
  return {batch, height, 6, 4, out_height, 6, 6, 3, 3, 2, 1, 1, 1, 1, 1, 2};
}

}  // namespace kerasq

#endif  // KERASQ_TESTS_TFLITE_OPERATOR_CASES_H_
