// Operators with bits as their input, their output, or both.
#include <limits>

#include "core/reference.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

// Owns the arrays that BitplaneWeights points to. Of a float output, scales and bias are 1 and 0.
struct BitModel {
  BitModel(Random& random, const ConvGeometry& g, bool bits_in, bool bits_out) {
    w.weight_planes = w.input_planes = 1;
    w.pad_value = random.Int(0, 1);
    w.bits_in = bits_in;
    planes = random.Bytes(static_cast<size_t>(g.out_c) *
                          CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8));
    w.planes = planes.data();
    w.basis = w.input_basis = &one;
    w.bias = &zero;
    w.basis_rows = w.basis_cols = w.bias_size = w.input_basis_size = 1;
    if (!bits_in) {
      w.threshold_rows = random.Int(0, 1) ? g.in_c : 1;
      w.direction_size = random.Int(0, 1) ? g.in_c : 1;
      w.num_thresholds = 1;
      thresholds = random.Floats(w.threshold_rows);
      for (int i = 0; i < w.direction_size; ++i) direction.push_back(random.Int(0, 1) * 2 - 1);
      w.thresholds = thresholds.data();
      w.direction = direction.data();
      w.level_bits = levels;
    }
    if (!bits_out) return;
    const int spread = g.taps() * g.group_in() / 2 + 1;
    w.output_thresholds_size = random.Int(0, 3) ? g.out_c : 1;
    w.output_direction_size = random.Int(0, 1) ? g.out_c : 1;
    for (int i = 0; i < w.output_thresholds_size; ++i) {
      const int constant[] = {std::numeric_limits<int32_t>::min(),
                              std::numeric_limits<int32_t>::max()};
      output_thresholds.push_back(random.Int(0, 9) ? random.Int(-spread, spread)
                                                   : constant[random.Int(0, 1)]);
    }
    for (int i = 0; i < w.output_direction_size; ++i) {
      output_direction.push_back(static_cast<int8_t>(random.Int(0, 1) * 2 - 1));
    }
    w.output_thresholds = output_thresholds.data();
    w.output_direction = output_direction.data();
  }

  static constexpr uint8_t levels[] = {0, 1};
  static constexpr float one = 1.0f, zero = 0.0f;
  BitplaneWeights w{};
  std::vector<uint8_t> planes;
  std::vector<float> thresholds, direction;
  std::vector<int32_t> output_thresholds;
  std::vector<int8_t> output_direction;
};

// Words whose unused bits are set, too.
std::vector<int32_t> RandomWords(Random& random, size_t count) {
  std::vector<int32_t> words(count);
  for (int32_t& word : words) {
    word = random.Int(std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max());
  }
  return words;
}

int64_t Pixels(const ConvGeometry& g) { return int64_t{g.batch} * g.in_h * g.in_w; }
int64_t OutputPixels(const ConvGeometry& g) { return int64_t{g.batch} * g.out_h * g.out_w; }

// What Run writes, as words: floats bit by bit.
std::vector<int32_t> RunWords(const ConvOperator& op, const ConvGeometry& g, const void* input,
                              int words, int num_threads) {
  ThreadPool pool(num_threads);
  const size_t bytes = op.ScratchBytes(g, num_threads);
  void* scratch = std::aligned_alloc(64, (bytes + 127) / 64 * 64);
  std::vector<int32_t> output(OutputPixels(g) * words, -77);
  op.Run(g, input, output.data(), scratch, &pool);
  std::free(scratch);
  return output;
}

void CompareBits(const ConvGeometry& g, const BitModel& model, Random& random) {
  const BitplaneWeights& w = model.w;
  const std::vector<float> floats = random.Floats(Pixels(g) * g.in_c);
  const std::vector<int32_t> words = RandomWords(random, Pixels(g) * BitWords(g.in_c) + 1);
  const int out_words = w.output_thresholds != nullptr ? BitWords(g.out_c) : g.out_c;
  for (int offset = 0; offset < 2; ++offset) {  // of which one is not aligned to 64 bits
    const void* input = w.bits_in ? static_cast<const void*>(words.data() + offset) : floats.data();
    std::vector<int32_t> expected(OutputPixels(g) * out_words);
    ReferenceBitConv(g, w, input, expected.data());
    for (const std::string& isa : Isas()) {
      setenv("KERASQ_ISA", isa.c_str(), 1);
      std::string error;
      const auto op = MakeBitplaneConv(g, w, &error);
      ASSERT_NE(op, nullptr) << error;
      for (int threads = 1; threads <= 3; threads += 2) {
        ASSERT_EQ(RunWords(*op, g, input, out_words, threads), expected) << isa << Describe(g);
      }
    }
    unsetenv("KERASQ_ISA");
  }
}

TEST(BitConv, MatchesTheReference) {
  Random random(1);
  for (int i = 0; i < 60; ++i) {
    const ConvGeometry g = RandomGeometry(random, i % 10 == 0 ? 150 : 40);
    CompareBits(g, BitModel(random, g, i % 2 == 0 || i % 3 == 0, i % 3 != 0), random);
  }
}

TEST(BitConv, WholeWordsAreReadInPlace) {
  Random random(2);
  for (int i = 0; i < 6; ++i) {
    ConvGeometry g = RandomGeometry(random, 2);
    g.groups = 1;
    g.in_c = 64 * random.Int(1, 2);
    g.out_c = 8 * random.Int(1, 5);
    CompareBits(g, BitModel(random, g, true, i % 2 == 0), random);
  }
}

TEST(BitConv, Depthwise) {
  Random random(3);
  for (bool bits_out : {false, true}) {
    ConvGeometry g = RandomGeometry(random, 5);
    g.in_c = g.groups = 13;
    g.out_c = 26;
    CompareBits(g, BitModel(random, g, true, bits_out), random);
  }
}

TEST(BitConv, LongRows) {
  Random random(4);
  for (int channels : {64 * 31, 64 * 61 + 5}) {
    const ConvGeometry g{1, 3, 3, channels, 1, 1, 5, 3, 3, 1, 1, 1, 1, 0, 0, 1};
    CompareBits(g, BitModel(random, g, true, true), random);
  }
}

TEST(Bitpack, MatchesTheReference) {
  Random random(5);
  for (int i = 0; i < 20; ++i) {
    const int channels = random.Int(1, 200);
    const ConvGeometry g{2, 3, 4, channels, 3, 4, channels, 1, 1, 1, 1, 1, 1, 0, 0, channels};
    const std::vector<float> thresholds = random.Floats(i % 2 ? channels : 1);
    std::vector<float> direction(i % 3 ? channels : 1);
    for (float& d : direction) d = random.Int(0, 1) ? 1.0f : -1.0f;
    const BitpackWeights w = {thresholds.data(), static_cast<int>(thresholds.size()),
                              direction.data(), static_cast<int>(direction.size())};
    std::vector<float> x = random.Floats(Pixels(g) * channels);
    x[0] = NAN;
    x[1] = thresholds[0];
    std::vector<int32_t> expected(Pixels(g) * BitWords(channels));
    ReferenceBitpack(g, w, x.data(), expected.data());
    for (const std::string& isa : Isas()) {
      setenv("KERASQ_ISA", isa.c_str(), 1);
      std::string error;
      const auto op = MakeBitpack(g, w, &error);
      ASSERT_NE(op, nullptr) << error;
      EXPECT_EQ(op->kernel_name(g), "bitpack_" + isa);
      EXPECT_EQ(RunWords(*op, g, x.data(), BitWords(channels), 1 + i % 3), expected);
    }
    unsetenv("KERASQ_ISA");
  }
}

TEST(BitMaxPool, MatchesTheReference) {
  Random random(6);
  for (int i = 0; i < 40; ++i) {
    ConvGeometry g = RandomGeometry(random, 100);
    g.groups = g.out_c = g.in_c;
    g.dilation_h = g.dilation_w = 1;
    SamePadding(g.in_h, g.kernel_h, g.stride_h, 1, &g.out_h, &g.pad_top);
    SamePadding(g.in_w, g.kernel_w, g.stride_w, 1, &g.out_w, &g.pad_left);
    const std::vector<int32_t> minimum = RandomWords(random, BitWords(g.in_c));
    const BitMaxPoolWeights w = {minimum.data()};
    const std::vector<int32_t> x = RandomWords(random, Pixels(g) * BitWords(g.in_c));
    std::vector<int32_t> expected(OutputPixels(g) * BitWords(g.in_c));
    ReferenceBitMaxPool(g, w, x.data(), expected.data());
    std::string error;
    const auto op = MakeBitMaxPool(g, w, &error);
    ASSERT_NE(op, nullptr) << error;
    EXPECT_EQ(RunWords(*op, g, x.data(), BitWords(g.in_c), 1 + i % 3), expected) << Describe(g);
  }
}

TEST(BitConv, RefusesValuesWithoutMeaning) {
  Random random(7);
  const ConvGeometry g{1, 1, 1, 8, 1, 1, 3, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  std::string error;
  const auto refused = [&](const BitplaneWeights& w, const char* why) {
    EXPECT_EQ(MakeBitplaneConv(g, w, &error), nullptr);
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  BitModel model(random, g, true, true);
  BitplaneWeights w = model.w;
  w.input_planes = 2;
  refused(w, "an input of bits has 1 plane, not 2");
  w = model.w;
  w.weight_planes = 2;
  refused(w, "an output of bits needs 1 plane of weights");
  w = model.w;
  w.activation = Activation::kRelu;
  refused(w, "no activation");
  w = model.w;
  w.output_thresholds_size = 2;
  refused(w, "output_thresholds and output_direction must have 1 or 3");
  w = model.w;
  model.output_direction[0] = 0;
  refused(w, "an output_direction must be +1 or -1");
  BitModel floats(random, g, true, false);
  w = floats.w;
  w.input_basis_size = 3;
  refused(w, "input_basis");
  const float nan[] = {NAN}, half[] = {0.5f};
  EXPECT_EQ(MakeBitpack(g, {nan, 1, half, 1}, &error), nullptr);
  EXPECT_NE(error.find("not a number"), std::string::npos) << error;
  EXPECT_EQ(MakeBitpack(g, {half, 1, half, 1}, &error), nullptr);
  EXPECT_NE(error.find("a direction must be"), std::string::npos) << error;
  EXPECT_EQ(MakeBitpack(g, {half, 2, half, 1}, &error), nullptr);
  EXPECT_NE(error.find("1 or 8 elements"), std::string::npos) << error;
}

}  // namespace
}  // namespace kerasq
