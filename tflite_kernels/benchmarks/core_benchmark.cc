// Whole operators on one thread: packing of the input, accumulation and output transform.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <random>
#include <vector>

#include "core/operators.h"
#include "core/values.h"

namespace kerasq {
namespace {

// A SAME convolution of square maps.
ConvGeometry Conv(int size, int in_c, int out_c, int kernel, int stride = 1, int groups = 1) {
  const int out = CeilDiv(size, stride);
  const int total = (out - 1) * stride + kernel - size;
  const int pad = total > 0 ? total / 2 : 0;
  return {1,      size,   size,   in_c, out, out, out_c, kernel,
          kernel, stride, stride, 1,    1,   pad, pad,   groups};
}

ConvGeometry Dense(int rows, int in_c, int out_c) {
  return {rows, 1, 1, in_c, 1, 1, out_c, 1, 1, 1, 1, 1, 1, 0, 0, 1};
}

std::vector<float> Floats(size_t n) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(engine);
  return values;
}

std::vector<uint8_t> Indices(size_t n, int below) {
  std::mt19937 engine(2);
  std::vector<uint8_t> values(n);
  for (uint8_t& v : values) v = static_cast<uint8_t>(engine() % static_cast<unsigned>(below));
  return values;
}

void Measure(benchmark::State& state, const ConvOperator* op, const ConvGeometry& g,
             const std::string& error) {
  if (op == nullptr) {
    state.SkipWithError(error.c_str());
    return;
  }
  const std::vector<float> input = Floats(static_cast<size_t>(g.batch) * g.in_h * g.in_w * g.in_c);
  std::vector<float> output(static_cast<size_t>(g.batch) * g.out_h * g.out_w * g.out_c);
  void* scratch = std::aligned_alloc(64, (op->ScratchBytes(g, 1) + 127) / 64 * 64);
  ThreadPool pool(1);
  for (auto _ : state) {
    op->Run(g, input.data(), output.data(), scratch, &pool);
    benchmark::DoNotOptimize(output.data());
  }
  std::free(scratch);
  state.SetLabel(op->kernel_name(g));
  state.counters["MAC/s"] = benchmark::Counter(
      static_cast<double>(output.size()) * g.taps() * g.group_in(),
      benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::OneK::kIs1000);
}

void Bitplane(benchmark::State& state, const ConvGeometry& g, int weight_planes, int input_planes) {
  const size_t row_bytes =
      static_cast<size_t>(CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8));
  const std::vector<uint8_t> planes = Indices(row_bytes * g.out_c * weight_planes, 256);
  const std::vector<uint8_t> levels = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<float> ones(8, 1.0f), thresholds = {-3, -2, -1, 0, 1, 2, 3};
  const BitplaneWeights w = {weight_planes,
                             input_planes,
                             0,
                             Activation::kNone,
                             planes.data(),
                             ones.data(),
                             weight_planes,
                             1,
                             ones.data(),
                             1,
                             thresholds.data(),
                             1,
                             (1 << input_planes) - 1,
                             ones.data(),
                             1,
                             levels.data(),
                             ones.data(),
                             input_planes,
                             /*bits_in=*/false,
                             nullptr,
                             0,
                             nullptr,
                             0};
  std::string error;
  const auto op = MakeBitplaneConv(g, w, &error);
  Measure(state, op.get(), g, error);
}

void CodebookOf(benchmark::State& state, const ConvGeometry& g, int codewords, int subvector,
                bool bytes = false) {
  int bits = 1;
  while (1 << bits < codewords) ++bits;
  const int subspaces = CeilDiv(g.group_in(), subvector);
  const size_t elements = static_cast<size_t>(subspaces) * codewords * subvector;
  const std::vector<float> values = Floats(bytes ? 0 : elements);
  const std::vector<uint8_t> codes = Indices(bytes ? elements : 0, 256);  // int8
  const size_t row_bytes = static_cast<size_t>(CeilDiv64(static_cast<int64_t>(g.out_c) * bits, 8));
  // All patterns of bits are indices where the number of codewords is a power of two.
  const std::vector<uint8_t> indices = Indices(row_bytes * g.taps() * subspaces, 256);
  const float one = 1.0f;
  CodebookWeights w = {};
  w.subvector = subvector;
  w.codewords = codewords;
  w.bits = bits;
  w.codebooks = w.subspaces = subspaces;
  w.codeword_data = bytes ? static_cast<const void*>(codes.data()) : values.data();
  w.indices = indices.data();
  w.multiplier = w.bias = &one;
  w.multiplier_size = w.bias_size = 1;
  std::string error;
  const auto op =
      bytes ? MakeByteTableConv(g, w, {32.0f, 0, 6, 9000}, &error) : MakeCodebookConv(g, w, &error);
  Measure(state, op.get(), g, error);
}

const ConvGeometry k3x3 = Conv(14, 256, 256, 3);

BENCHMARK_CAPTURE(Bitplane, conv3x3_256_14x14_planes1x1, k3x3, 1, 1);
BENCHMARK_CAPTURE(Bitplane, conv3x3_256_14x14_planes2x2, k3x3, 2, 2);
BENCHMARK_CAPTURE(Bitplane, conv3x3_256_14x14_planes1x0, k3x3, 1, 0);
BENCHMARK_CAPTURE(Bitplane, conv3x3_64_56x56_planes1x1, Conv(56, 64, 64, 3), 1, 1);
BENCHMARK_CAPTURE(Bitplane, conv3x3_16_32x32_planes1x1, Conv(32, 16, 16, 3), 1, 1);
BENCHMARK_CAPTURE(Bitplane, depthwise3x3_256_14x14_planes1x0, Conv(14, 256, 256, 3, 1, 256), 1, 0);
BENCHMARK_CAPTURE(Bitplane, depthwise3x3_256_14x14_planes1x1, Conv(14, 256, 256, 3, 1, 256), 1, 1);
BENCHMARK_CAPTURE(Bitplane, dense_1x1024x1024_planes1x1, Dense(1, 1024, 1024), 1, 1);
BENCHMARK_CAPTURE(Bitplane, dense_1x1024x1024_planes1x0, Dense(1, 1024, 1024), 1, 0);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k16_d8, k3x3, 16, 8);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k256_d8, k3x3, 256, 8);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k16_d2, k3x3, 16, 2);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k16_d1, k3x3, 16, 1);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_16_32x32_k16_d2, Conv(32, 16, 16, 3), 16, 2);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_64_8x8_k16_d2, Conv(8, 64, 64, 3), 16, 2);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_32_stride2_k16_d2, Conv(32, 16, 32, 3, 2), 16, 2);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_64_56x56_k256_d8, Conv(56, 64, 64, 3), 256, 8);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_512_7x7_k256_d8, Conv(7, 512, 512, 3), 256, 8);
BENCHMARK_CAPTURE(CodebookOf, conv1x1_256_14x14_k16_d8, Conv(14, 256, 256, 1), 16, 8);
BENCHMARK_CAPTURE(CodebookOf, dense_1x1024x1024_k16_d8, Dense(1, 1024, 1024), 16, 8);
BENCHMARK_CAPTURE(CodebookOf, dense_1x1024x1024_k256_d8, Dense(1, 1024, 1024), 256, 8);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k16_d8_bytes, k3x3, 16, 8, true);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k256_d8_bytes, k3x3, 256, 8, true);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_256_14x14_k16_d2_bytes, k3x3, 16, 2, true);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_64_56x56_k16_d8_bytes, Conv(56, 64, 64, 3), 16, 8, true);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_64_56x56_k256_d8_bytes, Conv(56, 64, 64, 3), 256, 8, true);
BENCHMARK_CAPTURE(CodebookOf, conv3x3_512_7x7_k256_d8_bytes, Conv(7, 512, 512, 3), 256, 8, true);
BENCHMARK_CAPTURE(CodebookOf, dense_25088x4096_k16_d4_bytes, Dense(1, 25088, 4096), 16, 4, true);
BENCHMARK_CAPTURE(CodebookOf, dense_25088x4096_k256_d8_bytes, Dense(1, 25088, 4096), 256, 8, true);

}  // namespace
}  // namespace kerasq
