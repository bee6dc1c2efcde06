// Operators that pass bits to each other, through the runtime's callbacks.
#include <functional>

#include "kerasq/tflite_operators.h"
#include "tests/failing_new.h"
#include "tests/tflite_operator_cases.h"

namespace kerasq {
namespace {

constexpr int kIn = 40, kOut = 35, kTaps = 9;

// Floats are packed, convolved to bits, and pooled; the tensors between are those that are named.
struct BitChain {
  Values pack = {{"version", 1}, {"activation", 0}, {"channels_out", kIn}};
  Values conv = {
      {"version", 1},       {"activation", 0},   {"kernel_h", 3},   {"kernel_w", 3},
      {"stride_h", 1},      {"stride_w", 1},     {"dilation_h", 1}, {"dilation_w", 1},
      {"padding", 0},       {"groups", 1},       {"pad_value", 1},  {"channels_out", kOut},
      {"weight_planes", 1}, {"input_planes", 1}, {"bits_in", kIn},  {"bits_out", 1}};
  Values pool = {{"version", 1},  {"activation", 0}, {"kernel_h", 2},       {"kernel_w", 2},
                 {"stride_h", 2}, {"stride_w", 2},   {"dilation_h", 1},     {"dilation_w", 1},
                 {"padding", 1},  {"groups", kOut},  {"channels_out", kOut}};
  std::vector<uint8_t> planes;
  std::vector<float> thresholds, direction = {-1.0f};
  std::vector<int32_t> output_thresholds, minimum = {0x5a5a5a5a, 5};
  std::vector<int8_t> output_direction = {-1};
  int x = 0, packed = 0, bits = 0, pooled = 0;

  BitChain() {
    std::mt19937 random(3);
    planes = RandomBytes(&random, kOut * (kTaps * kIn / 8));
    thresholds = RandomFloats(&random, kIn);
    for (int c = 0; c < kOut; ++c) output_thresholds.push_back(c - kOut / 2);
  }

  void AddTo(FakeRuntime* runtime) {
    x = runtime->AddTensor(kTfLiteFloat32, {2, 6, 5, kIn});
    packed = runtime->AddTensor(kTfLiteInt32, {1});
    bits = runtime->AddTensor(kTfLiteInt32, {1});
    pooled = runtime->AddTensor(kTfLiteInt32, {1});
    runtime->AddNode("KerasqBitpack",
                     {x, runtime->AddConstant(kTfLiteFloat32, {kIn}, thresholds),
                      runtime->AddConstant(kTfLiteFloat32, {1}, direction)},
                     packed, EncodeOptions(pack));
    runtime->Register(*KerasqRegister_BITPACK());
    runtime->AddNode(
        "KerasqBitplaneConv2D",
        {packed, runtime->AddConstant(kTfLiteUInt8, {1, kOut, kTaps * kIn / 8}, planes),
         runtime->AddConstant(kTfLiteInt32, {kOut}, output_thresholds),
         runtime->AddConstant(kTfLiteInt8, {1}, output_direction)},
        bits, EncodeOptions(conv));
    runtime->Register(*KerasqRegister_BITPLANE_CONV_2D());
    runtime->AddNode("KerasqBitpackMaxPool2D",
                     {bits, runtime->AddConstant(kTfLiteInt32, {2}, minimum)}, pooled,
                     EncodeOptions(pool));
    runtime->Register(*KerasqRegister_BITPACK_MAX_POOL_2D());
  }

  std::vector<int32_t> Expect(const float* input, int batch) const {
    const ConvGeometry packs = {batch, 6, 5, kIn, 6, 5, kIn, 1, 1, 1, 1, 1, 1, 0, 0, kIn};
    std::vector<int32_t> words(batch * 6 * 5 * BitWords(kIn));
    ReferenceBitpack(packs, {thresholds.data(), kIn, direction.data(), 1}, input, words.data());
    const ConvGeometry convolves = {batch, 6, 5, kIn, 6, 5, kOut, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    BitplaneWeights weights = {};
    weights.weight_planes = weights.input_planes = weights.pad_value = 1;
    weights.planes = planes.data();
    weights.bits_in = true;
    weights.output_thresholds = output_thresholds.data();
    weights.output_thresholds_size = kOut;
    weights.output_direction = output_direction.data();
    weights.output_direction_size = 1;
    std::vector<int32_t> sums(batch * 6 * 5 * BitWords(kOut));
    ReferenceBitConv(convolves, weights, words.data(), sums.data());
    const ConvGeometry pools = {batch, 6, 5, kOut, 3, 2, kOut, 2, 2, 2, 2, 1, 1, 0, 0, kOut};
    std::vector<int32_t> output(batch * 3 * 2 * BitWords(kOut));
    ReferenceBitMaxPool(pools, {minimum.data()}, sums.data(), output.data());
    return output;
  }
};

TEST(BitOperators, ChainMatchesTheReferenceAcrossResizes) {
  FakeRuntime runtime;
  BitChain chain;
  chain.AddTo(&runtime);
  std::mt19937 random(9);
  for (const auto& [batch, threads] : {std::pair(2, 1), {3, 2}, {0, 2}, {1, 3}}) {
    runtime.context.recommended_num_threads = threads;
    runtime.Resize(chain.x, {batch, 6, 5, kIn});
    ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
    EXPECT_EQ(runtime.Shape(chain.packed), std::vector<int>({batch, 6, 5, 2}));
    EXPECT_EQ(runtime.Shape(chain.bits), std::vector<int>({batch, 6, 5, 2}));
    EXPECT_EQ(runtime.Shape(chain.pooled), std::vector<int>({batch, 3, 2, 2}));
    const std::vector<float> x = RandomFloats(&random, batch * 6 * 5 * kIn);
    std::copy(x.begin(), x.end(), runtime.Floats(chain.x));
    ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
    const auto* words = static_cast<const int32_t*>(runtime.tensors[chain.pooled].data.data);
    EXPECT_EQ(std::vector<int32_t>(words, words + batch * 3 * 2 * 2),
              chain.Expect(x.data(), batch));
  }
}

// Input `position` of the operator number `node`.
int Input(const FakeRuntime* runtime, int node, int position) {
  return runtime->nodes[node].node.inputs->data[position];
}

TEST(BitOperators, MalformedTensorsGiveMessages) {
  const std::pair<std::function<void(FakeRuntime*, const BitChain&)>, const char*> damages[] = {
      {[](FakeRuntime* r, const BitChain& c) { r->tensors[c.packed].type = kTfLiteFloat32; },
       "KerasqBitpack: its output has type float32, expected int32"},
      {[](FakeRuntime* r, const BitChain& c) { r->tensors[c.x].type = kTfLiteInt32; },
       "KerasqBitpack: its input has type int32, expected float32"},
      {[](FakeRuntime* r, const BitChain& c) { r->tensors[c.bits].type = kTfLiteFloat32; },
       "KerasqBitplaneConv2D: its output has type float32, expected int32"},
      {[](FakeRuntime* r, const BitChain& c) { r->nodes[2].node.inputs->data[0] = c.x; },
       "KerasqBitpackMaxPool2D: its input has type float32, expected int32"},
      {[](FakeRuntime* r, const BitChain& c) {
         r->Resize(c.x, {2, 6, 5, 1});
       },
       "the 1 channels of its input do not divide into 40 groups"},
      {[](FakeRuntime* r, const BitChain& c) {
         r->Resize(c.x, {2, 6, 5, 2 * kIn});
       },
       "it packs 40 channels, but its input has 80"},
      {[](FakeRuntime* r, const BitChain&) { r->nodes[1].node.inputs->data[0] = 3; },
       "its input has shape [1], expected (N, H, W, channels)"},
      {[](FakeRuntime* r, const BitChain&) { r->tensors[Input(r, 1, 1)].type = kTfLiteInt32; },
       "planes has type int32"},
      {[](FakeRuntime* r, const BitChain&) {
         r->Resize(Input(r, 1, 2), {1, 1});
       },
       "output_thresholds has shape [1, 1], expected [1 or 35]"},
      {[](FakeRuntime* r, const BitChain&) { r->tensors[Input(r, 1, 2)].bytes = 4; },
       "output_thresholds stores 4 bytes"},
      {[](FakeRuntime* r, const BitChain&) { r->tensors[Input(r, 1, 3)].data.uint8[0] = 2; },
       "an output_direction must be +1 or -1"},
      {[](FakeRuntime* r, const BitChain&) { r->Resize(Input(r, 2, 1), {1}); },
       "minimum has shape [1], expected [2]"},
      {[](FakeRuntime* r, const BitChain&) { r->nodes[2].node.inputs->size = 1; },
       "KerasqBitpackMaxPool2D: it has 1 inputs, expected 2"},
      {[](FakeRuntime* r, const BitChain&) { r->nodes[1].node.inputs->size = 3; },
       "it has 3 inputs, expected 4"},
  };
  for (const auto& [damage, message] : damages) {
    FakeRuntime runtime;
    BitChain chain;
    chain.AddTo(&runtime);
    damage(&runtime, chain);
    EXPECT_EQ(runtime.Prepare(), kTfLiteError) << message;
    EXPECT_NE(runtime.errors.find(message), std::string::npos) << runtime.errors << message;
  }
}

TEST(BitOperators, MalformedOptionsGiveMessages) {
  const std::tuple<Values BitChain::*, const char*, int64_t, const char*> damages[] = {
      {&BitChain::conv, "bits_in", -1, "'bits_in' is -1"},
      {&BitChain::conv, "bits_in", 1 << 21, "'bits_in' is 2097152"},
      {&BitChain::conv, "bits_in", 65, "its input has 2 words a pixel, but 65 channels"},
      {&BitChain::conv, "bits_in", 41, "planes has shape [1, 35, 45], expected [1, 35, 47]"},
      {&BitChain::conv, "bits_in", 0, "it has 4 inputs, expected 7"},
      {&BitChain::conv, "bits_out", 2, "'bits_out' is 2"},
      {&BitChain::conv, "bits_out", 0, "its output has type int32, expected float32"},
      {&BitChain::conv, "activation", 1, "an output of bits has no activation"},
      {&BitChain::conv, "input_planes", 2, "an input of bits has 1 plane"},
      {&BitChain::conv, "input_planes", 0, "an input of bits has 1 plane"},
      {&BitChain::conv, "weight_planes", 2, "planes has shape [1, 35, 45]"},
      {&BitChain::pool, "padding", 2, "'pad_top' is missing"},
      {&BitChain::pool, "dilation_h", 2, "its window dilated"},
      {&BitChain::pool, "groups", 7, "it pools 35 channels in 7 groups"},
      {&BitChain::pool, "kernel_h", 7, "feed a larger input"},
      {&BitChain::pack, "channels_out", 0, "'channels_out' is 0"},
      {&BitChain::pack, "channels_out", 20, "it packs 20 channels, but its input has 40"},
  };
  for (const auto& [options, key, value, message] : damages) {
    FakeRuntime runtime;
    BitChain chain;
    (chain.*options)[key] = value;
    chain.AddTo(&runtime);
    EXPECT_EQ(runtime.Prepare(), kTfLiteError) << message;
    EXPECT_NE(runtime.errors.find(message), std::string::npos) << runtime.errors << message;
  }
}

TEST(BitOperators, ReportThatMemoryRunsOut) {
  FakeRuntime runtime;
  BitChain chain;
  chain.AddTo(&runtime);
  TfLiteStatus status = kTfLiteOk;
  int count = 0;
  for (; RunsOutOfMemory(count, [&] { status = runtime.Prepare(); }); ++count) {
    EXPECT_EQ(status, kTfLiteError) << count;
    EXPECT_EQ(runtime.Invoke(), kTfLiteError);
  }
  EXPECT_GT(count, 3);
  EXPECT_EQ(status, kTfLiteOk);
  EXPECT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
}

}  // namespace
}  // namespace kerasq
