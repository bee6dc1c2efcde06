#include "core/reference.h"
#include "core_huffman_test_util.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

// Owns the arrays that SparseWeights points to.
struct Model {
  Model(Random& random, const ConvGeometry& g, int size, int gap_bits) {
    const int64_t weights = static_cast<int64_t>(g.taps()) * g.group_in() * g.out_c;
    std::vector<int> all_gaps, all_codes;
    for (int64_t position = -1; true;) {
      const int gap = random.Int(0, (1 << gap_bits) - 1);
      position += gap + 1;
      if (position >= weights) break;
      all_gaps.push_back(gap);
      all_codes.push_back(random.Int(0, size - 1));
    }
    gaps = Encode(RandomLengths(random, 1 << gap_bits), all_gaps);
    codes = Encode(RandomLengths(random, size), all_codes);
    codewords = random.Floats(size);
    codewords[0] = 0.0f;
    multiplier = random.Floats(random.Int(0, 1) ? g.out_c : 1);
    bias = random.Floats(random.Int(0, 1) ? g.out_c : 1);
    activation = static_cast<Activation>(random.Int(0, 2));
    entries = static_cast<int64_t>(all_gaps.size());
  }

  SparseWeights weights() const {
    SparseWeights w = {};
    w.activation = activation;
    w.codeword_data = codewords.data();
    w.entries = entries;
    w.gap_code = gaps.code();
    w.gaps = gaps.stream();
    w.code = codes.code();
    w.codes = codes.stream();
    w.multiplier = multiplier.data();
    w.multiplier_size = static_cast<int>(multiplier.size());
    w.bias = bias.data();
    w.bias_size = static_cast<int>(bias.size());
    return w;
  }

  EncodedSymbols gaps, codes;
  std::vector<float> codewords, multiplier, bias;
  Activation activation;
  int64_t entries;
};

TEST(SparseConv, MatchesTheReference) {
  Random random(1);
  const int sizes[] = {2, 3, 16, 17, 256};
  for (int i = 0; i < 60; ++i) {
    ConvGeometry g = RandomGeometry(random, i % 3 == 0 ? 70 : 25);
    if (i % 5 == 0) {  // depthwise
      g.groups = g.in_c;
      g.out_c = 2 * g.in_c;
    }
    const Model model(random, g, sizes[i % 5], 2 + i % 7);
    const std::vector<float> input =
        random.Floats(static_cast<size_t>(g.batch) * g.in_h * g.in_w * g.in_c);
    std::vector<float> expected(static_cast<size_t>(g.batch) * g.out_h * g.out_w * g.out_c);
    ReferenceSparseConv(g, model.weights(), input.data(), expected.data());
    for (const std::string& isa : Isas()) {
      setenv("KERASQ_ISA", isa.c_str(), 1);
      std::string error;
      const auto op = MakeSparseConv(g, model.weights(), &error);
      ASSERT_NE(op, nullptr) << error;
      EXPECT_EQ(std::string(op->kernel_name(g)).find("sparse_"), 0u);
      for (int threads = 1; threads <= 3; threads += 2) {
        ExpectClose(RunOperator(*op, g, input, threads), expected, 2e-5f, Describe(g));
      }
    }
    unsetenv("KERASQ_ISA");
  }
}

TEST(SparseConv, RefusesValuesWithoutMeaning) {
  Random random(2);
  const ConvGeometry g{1, 3, 3, 8, 3, 3, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  const Model model(random, g, 5, 3);
  const auto refused = [&](const SparseWeights& weights, const char* why) {
    std::string error;
    EXPECT_EQ(MakeSparseConv(g, weights, &error), nullptr) << why;
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  Model zero = model;
  zero.codewords[0] = 1.0f;
  refused(zero.weights(), "first codeword must be 0");
  SparseWeights weights = model.weights();
  weights.entries += 100;
  refused(weights, "gaps: it has");
  weights = model.weights();
  weights.bias_size = 3;
  refused(weights, "multiplier and bias");
  weights = model.weights();
  weights.code.alphabet = 257;
  refused(weights, "codewords must be 2 to 256");
  weights = model.weights();
  weights.gap_code.alphabet = 2;
  refused(weights, "2 to 8 bits");
  Model past = model;
  past.gaps = Encode({3, 3, 3, 3, 3, 3, 3, 3}, std::vector<int>(model.entries, 7));
  refused(past.weights(), "lies past its 40 weights");
  Model crowded = model;
  crowded.codes = Encode({1, 1, 1, 0, 0}, std::vector<int>(model.entries, 0));
  refused(crowded.weights(), "codes: its Huffman code is over-subscribed");
}

TEST(SparseConv, RefusesKernelsTooLargeToDecode) {
  Random random(3);
  const ConvGeometry small{1, 1, 1, 8, 1, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  ConvGeometry large = small;
  large.in_c = 1 << 15;
  large.out_c = 1 << 14;
  const Model model(random, small, 5, 3);
  SparseWeights weights = model.weights();
  weights.multiplier_size = weights.bias_size = 1;
  std::string error;
  EXPECT_EQ(MakeSparseConv(large, weights, &error), nullptr);
  EXPECT_NE(error.find("more than 2^28 floats"), std::string::npos) << error;
}

}  // namespace
}  // namespace kerasq
