// Random geometries, and the comparison with the reference.
#ifndef KERASQ_TESTS_CORE_TEST_UTIL_H_
#define KERASQ_TESTS_CORE_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/operators.h"
#include "core/values.h"
#include "tests/random.h"

namespace kerasq {

// The instruction sets this machine can run.
inline std::vector<std::string> Isas() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"scalar", "avx2"};
  return {"scalar"};
#elif defined(__aarch64__)
  return {"scalar", "neon"};
#else
  return {"scalar"};
#endif
}

// Output size and leading padding as TensorFlow's SAME gives them.
inline void SamePadding(int in, int kernel, int stride, int dilation, int* out, int* before) {
  *out = CeilDiv(in, stride);
  const int span = (kernel - 1) * dilation + 1;
  *before = std::max((*out - 1) * stride + span - in, 0) / 2;
}

inline ConvGeometry RandomGeometry(Random& random, int max_channels) {
  ConvGeometry g{};
  g.batch = random.Int(1, 2);
  g.groups = random.Int(0, 3) == 0 ? random.Int(2, 3) : 1;
  g.in_c = g.groups * random.Int(1, max_channels);
  g.out_c = g.groups * random.Int(1, max_channels);
  g.kernel_h = random.Int(1, 3);
  g.kernel_w = random.Int(1, 3);
  g.stride_h = random.Int(1, 2);
  g.stride_w = random.Int(1, 3);
  g.dilation_h = random.Int(1, 2);
  g.dilation_w = random.Int(1, 2);
  g.in_h = random.Int(5, 11);
  g.in_w = random.Int(5, 19);
  if (random.Int(0, 1)) {
    SamePadding(g.in_h, g.kernel_h, g.stride_h, g.dilation_h, &g.out_h, &g.pad_top);
    SamePadding(g.in_w, g.kernel_w, g.stride_w, g.dilation_w, &g.out_w, &g.pad_left);
  } else {  // explicit, one more after than before
    g.pad_top = random.Int(0, 2);
    g.pad_left = random.Int(0, 2);
    g.out_h = (g.in_h + 2 * g.pad_top + 1 - (g.kernel_h - 1) * g.dilation_h - 1) / g.stride_h + 1;
    g.out_w = (g.in_w + 2 * g.pad_left + 1 - (g.kernel_w - 1) * g.dilation_w - 1) / g.stride_w + 1;
  }
  return g;
}

inline std::vector<float> RunOperator(const ConvOperator& op, const ConvGeometry& g,
                                      const std::vector<float>& input, int num_threads) {
  ThreadPool pool(num_threads);
  const size_t bytes = op.ScratchBytes(g, num_threads);
  const size_t rounded = (bytes + 127) / 64 * 64;
  void* scratch = std::aligned_alloc(64, rounded);
  std::vector<float> output(static_cast<size_t>(g.batch) * g.out_h * g.out_w * g.out_c, -77.0f);
  op.Run(g, input.data(), output.data(), scratch, &pool);
  std::free(scratch);
  return output;
}

inline std::string Describe(const ConvGeometry& g) {
  return std::to_string(g.batch) + "x" + std::to_string(g.in_h) + "x" + std::to_string(g.in_w) +
         "x" + std::to_string(g.in_c) + " -> " + std::to_string(g.out_h) + "x" +
         std::to_string(g.out_w) + "x" + std::to_string(g.out_c) + ", kernel " +
         std::to_string(g.kernel_h) + "x" + std::to_string(g.kernel_w) + ", stride " +
         std::to_string(g.stride_h) + "x" + std::to_string(g.stride_w) + ", dilation " +
         std::to_string(g.dilation_h) + "x" + std::to_string(g.dilation_w) + ", pad " +
         std::to_string(g.pad_top) + "," + std::to_string(g.pad_left) + ", groups " +
         std::to_string(g.groups);
}

// Equal but for the order of float32 additions: relative to the largest output.
inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected,
                        float tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  float largest = 1.0f;
  for (float v : expected) largest = std::max(largest, std::fabs(v));
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance * largest) << what << ", element " << i;
  }
}

}  // namespace kerasq

#endif  // KERASQ_TESTS_CORE_TEST_UTIL_H_
