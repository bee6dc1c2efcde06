#include "core/reference.h"
#include "core/xxhash32.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

// Those of the algorithm's publication.
TEST(Xxh32, PublishedValues) {
  EXPECT_EQ(Xxh32("", 0), 0x02CC5D05u);
  EXPECT_EQ(Xxh32("a", 0), 0x550D7456u);
  EXPECT_EQ(Xxh32("abc", 0), 0x32D153FFu);
  EXPECT_EQ(Xxh32("Nobody inspects the spammish repetition", 0), 0xE2293B2Fu);
}

TEST(HashedConv, WorkedExample) {
  const int buckets[3][4] = {{4, 11, 13, 13}, {3, 14, 3, 1}, {6, 10, 14, 12}};
  const int signs[3][4] = {{-1, -1, 1, -1}, {-1, -1, -1, -1}, {1, -1, 1, 1}};
  std::vector<float> values(16);
  for (int n = 0; n < 16; ++n) values[n] = static_cast<float>(n);
  HashedWeights w = {};
  w.seed = 2;
  w.value_data = values.data();
  w.buckets = 16;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 4; ++j) {
      EXPECT_EQ(HashedWeight(w, j, i), static_cast<float>(signs[i][j] * buckets[i][j]));
    }
  }
}

TEST(HashedConv, ReadsHalves) {
  const std::vector<uint16_t> halves = {0x3C00, 0xC000, 0x3555};  // 1, -2, about 1/3
  const std::vector<float> values = {1.0f, -2.0f, 0.333251953125f};
  HashedWeights half = {}, whole = {};
  half.seed = whole.seed = 2;
  half.buckets = whole.buckets = 3;
  half.value_data = halves.data();
  half.values_are_f16 = true;
  whole.value_data = values.data();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(HashedWeight(half, i, 7), HashedWeight(whole, i, 7));
}

TEST(HashedConv, MatchesTheReference) {
  Random random(1);
  for (int i = 0; i < 30; ++i) {
    ConvGeometry g{random.Int(1, 9), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1};
    g.in_c = i == 0 ? 1 : random.Int(1, 300);
    g.out_c = random.Int(1, 200);
    const std::vector<float> values = random.Floats(random.Int(1, 100));
    const std::vector<float> multiplier = random.Floats(g.out_c), bias = random.Floats(1);
    const HashedWeights w = {Activation::kRelu,
                             random.Int(0, 1000),
                             values.data(),
                             /*values_are_f16=*/false,
                             static_cast<int>(values.size()),
                             multiplier.data(),
                             g.out_c,
                             bias.data(),
                             1};
    const std::vector<float> input = random.Floats(static_cast<size_t>(g.batch) * g.in_c);
    std::vector<float> expected(static_cast<size_t>(g.batch) * g.out_c);
    ReferenceHashedConv(g, w, input.data(), expected.data());
    for (const std::string& isa : Isas()) {
      setenv("KERASQ_ISA", isa.c_str(), 1);
      std::string error;
      const auto op = MakeHashedConv(g, w, &error);
      ASSERT_NE(op, nullptr) << error;
      ExpectClose(RunOperator(*op, g, input, 1 + i % 3), expected, 2e-5f, Describe(g));
    }
    unsetenv("KERASQ_ISA");
  }
}

TEST(HashedConv, RefusesValuesWithoutMeaning) {
  const float one = 1.0f;
  const ConvGeometry g{1, 3, 3, 8, 3, 3, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  HashedWeights w = {Activation::kNone, 2, &one, false, 1, &one, 1, &one, 1};
  std::string error;
  const auto refused = [&](const ConvGeometry& geometry, const char* why) {
    EXPECT_EQ(MakeHashedConv(geometry, w, &error), nullptr);
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  ConvGeometry spatial = g;
  spatial.kernel_h = 3;
  refused(spatial, "dense");
  w.bias_size = 2;
  refused(g, "multiplier and bias");
  w.bias_size = 1;
  w.buckets = 0;
  refused(g, "a value");
}

}  // namespace
}  // namespace kerasq
