#include <cstring>
#include <set>

#include "core/operator_classes.h"
#include "core/packed_codebook.h"
#include "core/reference.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

int IndexBits(int codewords) {
  int bits = 1;
  while (1 << bits < codewords) ++bits;
  return bits;
}

// Owns the arrays that CodebookWeights points to.
struct Model {
  Model(Random& random, const ConvGeometry& g, int subvector, int size, bool by_channel = false) {
    w.by_channel = by_channel;
    w.subvector = subvector;
    w.codewords = size;
    w.bits = IndexBits(size);
    const int positions = by_channel ? 1 : g.taps();
    w.subspaces = CeilDiv(g.taps() / positions * g.group_in(), subvector);
    w.codebooks = random.Int(0, 2) == 0 ? 1 : w.subspaces;
    w.activation = static_cast<Activation>(random.Int(0, 2));
    codewords = random.Floats(static_cast<size_t>(w.codebooks) * size * subvector);
    for (float c : codewords) halves.push_back(Half(c));
    w.codewords_are_f16 = random.Int(0, 1);
    const int64_t row = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
    indices.assign(static_cast<size_t>(positions) * w.subspaces * row, 0);
    for (int r = 0; r < positions * w.subspaces; ++r) {
      for (int c = 0; c < g.out_c; ++c) SetIndex(r, row, c, random.Int(0, size - 1));
    }
    w.multiplier_size = random.Int(0, 1) ? g.out_c : 1;
    multiplier = random.Floats(w.multiplier_size);
    w.bias_size = random.Int(0, 1) ? g.out_c : 1;
    bias = random.Floats(w.bias_size);
    w.codeword_data = w.codewords_are_f16 ? static_cast<const void*>(halves.data())
                                          : static_cast<const void*>(codewords.data());
    w.indices = indices.data();
    w.multiplier = multiplier.data();
    w.bias = bias.data();
  }

  void SetIndex(int row, int64_t row_bytes, int c, int value) {
    for (int bit = 0; bit < w.bits; ++bit) {
      const int64_t at = static_cast<int64_t>(c) * w.bits + bit;
      indices[row * row_bytes + at / 8] |= ((value >> bit) & 1) << (at % 8);
    }
  }

  // The sign, five bits of exponent and the upper mantissa of a normal float of moderate size.
  static uint16_t Half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const int exponent = static_cast<int>((bits >> 23) & 255) - 112;
    if (exponent < 1) return static_cast<uint16_t>(bits >> 16 & 0x8000u);
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (exponent << 10) | (bits >> 13 & 0x3ffu));
  }

  CodebookWeights w{};
  std::vector<float> codewords, multiplier, bias;
  std::vector<uint16_t> halves;
  std::vector<uint8_t> indices;
};

// The operator as it is made for users, then each of its other paths, wherever it could be taken.
std::vector<std::unique_ptr<ConvOperator>> Operators(const ConvGeometry& g, const Model& model) {
  std::vector<std::unique_ptr<ConvOperator>> operators;
  std::string error;
  operators.push_back(MakeCodebookConv(g, model.w, &error));
  EXPECT_NE(operators[0], nullptr) << error;
  if (model.w.codewords > kMaxLookUpCodewords || (model.w.by_channel && g.taps() > 1)) {
    EXPECT_NE(std::string(operators[0]->kernel_name(g)).find("codebook_"), std::string::npos);
    return operators;
  }
  for (CodebookPath path : {CodebookPath::kLookUp, CodebookPath::kGemm}) {
    operators.push_back(MakeLookUpOrGemmConv(g, model.w, PackedCodebook(g, model.w), path));
  }
  return operators;
}

void Compare(const ConvGeometry& g, const Model& model, Random& random) {
  const std::vector<float> input =
      random.Floats(static_cast<size_t>(g.batch) * g.in_h * g.in_w * g.in_c);
  std::vector<float> expected(static_cast<size_t>(g.batch) * g.out_h * g.out_w * g.out_c);
  ReferenceCodebookConv(g, model.w, input.data(), expected.data());
  for (const std::string& isa : Isas()) {
    setenv("KERASQ_ISA", isa.c_str(), 1);
    for (const auto& op : Operators(g, model)) {
      ASSERT_NE(op, nullptr);
      for (int threads = 1; threads <= 3; threads += 2) {
        ExpectClose(RunOperator(*op, g, input, threads), expected, 2e-5f,
                    std::string(op->kernel_name(g)) + ", K " + std::to_string(model.w.codewords) +
                        ", d " + std::to_string(model.w.subvector) + ", " + Describe(g));
      }
    }
  }
  unsetenv("KERASQ_ISA");
}

TEST(CodebookConv, MatchesTheReference) {
  Random random(1);
  const int sizes[] = {1, 2, 3, 16, 17, 100, 256};
  for (int i = 0; i < 60; ++i) {
    const ConvGeometry g = RandomGeometry(random, i % 3 == 0 ? 70 : 25);
    Compare(g, Model(random, g, random.Int(1, 9), sizes[i % 7]), random);
  }
}

TEST(CodebookConv, LargeCodebooksAndSubvectorsByChannelMatchTheReference) {
  Random random(9);
  const int sizes[] = {2, 256, 257, 1000, 4096, 65536};
  for (int i = 0; i < 48; ++i) {
    const ConvGeometry g = RandomGeometry(random, i % 3 == 0 ? 70 : 25);
    const int size = sizes[i % 6];
    Compare(g, Model(random, g, random.Int(1, size > 4096 ? 3 : 20), size, i % 2 == 0), random);
  }
}

TEST(CodebookConv, DeepKernelsTakeSeveralPanels) {
  Random random(10);
  const ConvGeometry g{1, 5, 5, 700, 5, 5, 35, 3, 3, 1, 1, 1, 1, 1, 1, 1};
  Compare(g, Model(random, g, 9, 300, true), random);
  const ConvGeometry dense{3, 1, 1, 5000, 1, 1, 20, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  Compare(dense, Model(random, dense, 8, 300), random);
}

TEST(CodebookConv, LargeMapsAreCutIntoBands) {
  Random random(2);
  const ConvGeometry g{1, 40, 37, 16, 40, 37, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1};
  Model model(random, g, 8, 60);
  std::string error;
  const auto op = MakeCodebookConv(g, model.w, &error);
  ASSERT_NE(op, nullptr) << error;
  EXPECT_NE(std::string(op->kernel_name(g)).find("look_up"), std::string::npos);
  Compare(g, model, random);
}

// The scratch tells which way Run takes.
TEST(CodebookConv, NamesTheWayOfTheGeometry) {
  Random random(5);
  std::set<std::string> names;
  for (int channels : {16, 64, 256}) {
    ConvGeometry g{1, 40, 40, 16, 40, 40, channels, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    const Model model(random, g, 8, 256);
    const auto operators = Operators(g, model);
    for (int size : {1, 2, 4, 14, 40}) {
      g.in_h = g.in_w = g.out_h = g.out_w = size;
      const std::string name = operators[0]->kernel_name(g);
      const auto& same = name.find("look_up") != std::string::npos ? operators[1] : operators[2];
      EXPECT_EQ(name, same->kernel_name(g));
      EXPECT_EQ(operators[0]->ScratchBytes(g, 1), same->ScratchBytes(g, 1)) << name;
      names.insert(name);
    }
  }
  EXPECT_EQ(names.size(), 2u);
}

TEST(CodebookConv, DenseOfEveryBatch) {
  Random random(3);
  for (int batch : {1, 2, 7, 8, 65, 200}) {
    for (int subvector : {1, 4}) {
      const ConvGeometry g{batch, 1, 1, 50, 1, 1, 120, 1, 1, 1, 1, 1, 1, 0, 0, 1};
      Compare(g, Model(random, g, subvector, 16), random);
    }
  }
}

TEST(CodebookConv, PointwiseOnAnyMap) {
  Random random(4);
  const ConvGeometry g{2, 7, 9, 24, 7, 9, 80, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  Compare(g, Model(random, g, 8, 16), random);
  const ConvGeometry strided{2, 7, 9, 24, 4, 5, 80, 1, 1, 2, 2, 1, 1, 0, 0, 1};
  Compare(strided, Model(random, strided, 8, 8), random);
}

TEST(CodebookConv, RowsOfEveryWidth) {
  Random random(7);
  for (int width : {1, 2, 5, 8, 14, 17, 30, 33, 45, 52, 64, 65, 130}) {
    ConvGeometry g{
        1, 4, width, 16, 0, 0, 40, 3, 3, random.Int(1, 2), random.Int(1, 3), 1, random.Int(1, 2),
        0, 0, 1};
    SamePadding(g.in_h, g.kernel_h, g.stride_h, g.dilation_h, &g.out_h, &g.pad_top);
    SamePadding(g.in_w, g.kernel_w, g.stride_w, g.dilation_w, &g.out_w, &g.pad_left);
    Compare(g, Model(random, g, 8, 4), random);
  }
}

TEST(CodebookConv, StridesLongerThanTheKernel) {
  Random random(8);
  const ConvGeometry g{2, 13, 17, 24, 4, 4, 40, 2, 2, 4, 5, 1, 1, 0, 0, 1};
  Compare(g, Model(random, g, 8, 4), random);
}

TEST(CodebookConv, Depthwise) {
  Random random(5);
  ConvGeometry g = RandomGeometry(random, 5);
  g.in_c = g.groups = 11;
  g.out_c = 22;
  Compare(g, Model(random, g, 1, 4), random);
  Compare(g, Model(random, g, 1, 300), random);
  Compare(g, Model(random, g, 3, 5, true), random);
}

TEST(CodebookConv, RefusesValuesWithoutMeaning) {
  Random random(6);
  const ConvGeometry g{1, 3, 3, 8, 3, 3, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  std::string error;
  const auto refused = [&](Model& model, const char* why) {
    EXPECT_EQ(MakeCodebookConv(g, model.w, &error), nullptr);
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  Model past(random, g, 4, 5);
  std::fill(past.indices.begin(), past.indices.end(), 0xff);
  refused(past, "past its codebook of 5");
  Model many(random, g, 4, 5);
  many.w.codewords = 65537;
  refused(many, "codewords must be 1 to 65536");
  Model large(random, g, 4, 300);
  std::fill(large.indices.begin(), large.indices.end(), 0xff);
  refused(large, "an index is 511, past its codebook of 300");
  Model bits(random, g, 4, 5);
  bits.w.bits = 4;
  refused(bits, "4 bits do not fit 5");
  Model spaces(random, g, 4, 5);
  spaces.w.subspaces = 3;
  refused(spaces, "3 sub-spaces");
  Model books(random, g, 2, 5);
  books.w.codebooks = 2;
  refused(books, "codebook");
  Model length(random, g, 4, 5);
  length.w.subvector = 0;
  refused(length, "subvector");
}

}  // namespace
}  // namespace kerasq
