#include "core/operators.h"
#include "core/reference.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

// Owns the arrays that CodebookWeights points to.
struct Model {
  Model(Random& random, const ConvGeometry& g, int subvector, int size) {
    w.subvector = subvector;
    w.codewords = size;
    w.bits = 1;
    while (1 << w.bits < size) ++w.bits;
    w.subspaces = CeilDiv(g.group_in(), subvector);
    w.codebooks = random.Int(0, 2) == 0 ? 1 : w.subspaces;
    w.activation = static_cast<Activation>(random.Int(0, 2));
    codewords = random.Bytes(static_cast<size_t>(w.codebooks) * size * subvector);
    const size_t row = static_cast<size_t>(CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8));
    const size_t rows = static_cast<size_t>(g.taps()) * w.subspaces;
    indices.assign(rows * row, 0);
    for (size_t r = 0; r < rows; ++r) {
      for (int c = 0; c < g.out_c; ++c) {
        const int index = random.Int(0, size - 1);
        for (int bit = 0; bit < w.bits; ++bit) {
          const size_t at = static_cast<size_t>(c) * w.bits + bit;
          indices[r * row + at / 8] |= ((index >> bit) & 1) << (at % 8);
        }
      }
    }
    w.multiplier_size = random.Int(0, 1) ? g.out_c : 1;
    multiplier = random.Floats(w.multiplier_size);
    w.bias_size = random.Int(0, 1) ? g.out_c : 1;
    bias = random.Floats(w.bias_size);
    w.codeword_data = codewords.data();
    w.indices = indices.data();
    w.multiplier = multiplier.data();
    w.bias = bias.data();
    tables = {40.0f, random.Int(-128, 127), random.Int(0, 8), random.Int(1, 32767)};
  }

  CodebookWeights w{};
  ByteTables tables{};
  std::vector<float> multiplier, bias;
  std::vector<uint8_t> codewords, indices;  // codewords are int8
};

// Every bit of the output is the reference's.
void Compare(const ConvGeometry& g, const Model& model, std::vector<float> input) {
  std::vector<float> expected(static_cast<size_t>(g.batch) * g.out_h * g.out_w * g.out_c);
  ReferenceByteTableConv(g, model.w, model.tables, input.data(), expected.data());
  for (const std::string& isa : Isas()) {
    setenv("KERASQ_ISA", isa.c_str(), 1);
    std::string error;
    const auto op = MakeByteTableConv(g, model.w, model.tables, &error);
    ASSERT_NE(op, nullptr) << error;
    for (int threads = 1; threads <= 3; threads += 2) {
      ASSERT_EQ(RunOperator(*op, g, input, threads), expected)
          << op->kernel_name(g) << ", K " << model.w.codewords << ", d " << model.w.subvector
          << ", " << threads << " threads, " << Describe(g);
    }
  }
  unsetenv("KERASQ_ISA");
}

void Compare(const ConvGeometry& g, const Model& model, Random& random) {
  Compare(g, model, random.Floats(static_cast<size_t>(g.batch) * g.in_h * g.in_w * g.in_c));
}

TEST(ByteTableConv, MatchesTheReference) {
  Random random(1);
  const int sizes[] = {1, 2, 3, 15, 16, 17, 100, 255, 256};
  for (int i = 0; i < 90; ++i) {
    const ConvGeometry g = RandomGeometry(random, i % 3 == 0 ? 70 : 25);
    Compare(g, Model(random, g, random.Int(1, 9), sizes[i % 9]), random);
  }
}

// All entries 127 or -128, and more of them than 16 bits hold.
TEST(ByteTableConv, SumsThatWouldOverflow16Bits) {
  Random random(2);
  for (int size : {1, 16, 17, 256}) {
    for (int in_c : {126, 127, 128, 254, 255, 600}) {
      const ConvGeometry g{1, 4, 5, in_c, 4, 5, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1};
      for (const uint8_t codeword : {uint8_t{127}, uint8_t{0x80}}) {
        Model model(random, g, 1, size);
        std::fill(model.codewords.begin(), model.codewords.end(), codeword);
        model.tables = {1.0f, -128, 0, 32767};
        Compare(g, model, std::vector<float>(20 * in_c, 300.0f));
      }
    }
  }
}

TEST(ByteTableConv, DenseOfEveryBatch) {
  Random random(3);
  for (int batch : {1, 2, 5, 7, 8, 65, 200}) {
    for (int size : {16, 200}) {
      const ConvGeometry g{batch, 1, 1, 50, 1, 1, 120, 1, 1, 1, 1, 1, 1, 0, 0, 1};
      Compare(g, Model(random, g, 4, size), random);
    }
  }
}

TEST(ByteTableConv, LongSubvectorsDoNotOverflow) {
  Random random(4);
  const ConvGeometry g{1, 3, 3, 512, 3, 3, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  for (int size : {3, 40}) {
    Model model(random, g, 512, size);
    std::fill(model.codewords.begin(), model.codewords.end(), uint8_t{0x80});
    model.tables = {1.0f, -128, 24, 32767};
    Compare(g, model, std::vector<float>(9 * 512, 300.0f));
  }
}

TEST(ByteTableConv, LargeMapsAreCut) {
  Random random(5);
  for (int size : {16, 64, 256}) {
    const ConvGeometry g{1, 60, 57, 40, 60, 57, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    Compare(g, Model(random, g, 4, size), random);
    const ConvGeometry wide{1, 3, 700, 6, 2, 350, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1};
    Compare(wide, Model(random, wide, 3, size), random);
  }
}

TEST(ByteTableConv, KernelsOfManyTapsAndWideSpans) {
  Random random(6);
  for (int size : {16, 64}) {
    const ConvGeometry many{1, 20, 20, 3, 4, 4, 5, 17, 17, 1, 1, 1, 1, 0, 0, 1};
    Compare(many, Model(random, many, 3, size), random);
    const ConvGeometry wide{1, 4, 9, 3, 4, 9, 5, 3, 3, 1, 1, 3000, 3000, 3000, 3000, 1};
    Compare(wide, Model(random, wide, 3, size), random);
  }
}

TEST(ByteTableConv, InputsThatAreNotNumbersCountAsTheLargest) {
  Random random(7);
  const ConvGeometry g{1, 1, 1, 9, 1, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  for (int size : {16, 64}) {
    const Model model(random, g, 3, size);
    std::vector<float> infinite(9, INFINITY), none(9, NAN);
    std::string error;
    for (const std::string& isa : Isas()) {
      setenv("KERASQ_ISA", isa.c_str(), 1);
      const auto op = MakeByteTableConv(g, model.w, model.tables, &error);
      ASSERT_NE(op, nullptr) << error;
      EXPECT_EQ(RunOperator(*op, g, none, 1), RunOperator(*op, g, infinite, 1)) << isa;
    }
    unsetenv("KERASQ_ISA");
    Compare(g, model, infinite);
  }
}

TEST(ByteTableConv, RefusesValuesWithoutMeaning) {
  Random random(8);
  const ConvGeometry g{1, 3, 3, 8, 3, 3, 5, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  std::string error;
  const auto refused = [&](const Model& model, const char* why) {
    EXPECT_EQ(MakeByteTableConv(g, model.w, model.tables, &error), nullptr);
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  Model past(random, g, 4, 5);
  std::fill(past.indices.begin(), past.indices.end(), uint8_t{0xff});
  refused(past, "past its codebook of 5");
  Model many(random, g, 4, 5);
  many.w.codewords = 257;
  many.w.bits = 9;
  refused(many, "at most 256 codewords");
  Model scale(random, g, 4, 5);
  scale.tables.inverse_scale = NAN;
  refused(scale, "scale");
  Model shift(random, g, 4, 5);
  shift.tables.shift = 25;
  refused(shift, "shift");
  Model multiplier(random, g, 4, 5);
  multiplier.tables.multiplier = 0;
  refused(multiplier, "multiplier");
}

}  // namespace
}  // namespace kerasq
