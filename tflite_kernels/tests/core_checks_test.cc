#include "core/checks.h"
#include "core/kernels.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

constexpr ConvGeometry kPlain{1, 1, 1, 8, 1, 1, 4, 1, 1, 1, 1, 1, 1, 0, 0, 1};

// A codebook layer of 8 -> 4 channels, d = 4, K = 3.
struct SmallCodebook {
  SmallCodebook() {
    w.subvector = 4;
    w.codewords = 3;
    w.bits = 2;
    w.codebooks = w.subspaces = 2;
    w.codeword_data = values;
    w.indices = indices;
    w.multiplier = w.bias = values;
    w.multiplier_size = w.bias_size = 1;
  }
  CodebookWeights w{};
  float values[24] = {};
  uint8_t indices[2] = {};
};

TEST(Checks, GeometryWithoutMeaning) {
  EXPECT_EQ(CheckGeometry(kPlain), "");
  for (int ConvGeometry::*size :
       {&ConvGeometry::in_c, &ConvGeometry::out_c, &ConvGeometry::kernel_h, &ConvGeometry::kernel_w,
        &ConvGeometry::stride_h, &ConvGeometry::stride_w, &ConvGeometry::dilation_h,
        &ConvGeometry::dilation_w, &ConvGeometry::groups}) {
    for (int value : {0, -1}) {
      ConvGeometry g = kPlain;
      g.*size = value;
      EXPECT_NE(CheckGeometry(g).find("at least 1"), std::string::npos);
    }
  }
  ConvGeometry g = kPlain;
  g.pad_left = -1;
  EXPECT_NE(CheckGeometry(g).find("negative"), std::string::npos);
  g = kPlain;
  g.groups = 3;
  EXPECT_NE(CheckGeometry(g).find("divide"), std::string::npos);
}

TEST(Checks, ProductsThatOverflow) {
  ConvGeometry g = kPlain;
  g.kernel_h = g.kernel_w = 1 << 30;
  EXPECT_NE(CheckGeometry(g), "");
  g = kPlain;
  g.kernel_h = 1 << 16;
  g.dilation_h = 1 << 16;
  EXPECT_NE(CheckGeometry(g), "");
  g = kPlain;
  g.in_c = g.out_c = 1 << 20;
  EXPECT_NE(CheckGeometry(g), "");
  SmallCodebook book;
  book.w.subvector = 1 << 30;
  book.w.subspaces = book.w.codebooks = 1;
  g = kPlain;
  EXPECT_NE(CheckCodebook(g, book.w), "");
}

// One output a group: what is padded is many times what the file holds.
TEST(Checks, WeightsThatDoNotFitIntoMemory) {
  ConvGeometry g = kPlain;
  g.groups = g.out_c = 1 << 20;
  g.in_c = 64 * g.groups;
  g.kernel_h = g.kernel_w = 3;
  EXPECT_EQ(CheckGeometry(g), "");
  const float one = 1.0f;
  BitplaneWeights w{};
  w.weight_planes = w.basis_rows = w.basis_cols = w.bias_size = 1;
  w.basis = w.bias = &one;
  EXPECT_NE(CheckBitplane(g, w).find("more than 1 GiB"), std::string::npos);
  SmallCodebook book;
  g.in_c = 2 * g.groups;
  book.w.subvector = 1;
  book.w.codebooks = book.w.subspaces = 2;
  EXPECT_EQ(CheckCodebook(g, book.w), "");
  g.kernel_h = g.kernel_w = 10;
  EXPECT_NE(CheckCodebook(g, book.w).find("more than 2^30 indices"), std::string::npos);
}

TEST(Checks, SizesThatFitNoChannel) {
  SmallCodebook book;
  EXPECT_EQ(CheckCodebook(kPlain, book.w), "");
  book.w.bias_size = 2;
  EXPECT_NE(CheckCodebook(kPlain, book.w).find("bias"), std::string::npos);
  const float one = 1.0f;
  BitplaneWeights w{};
  w.weight_planes = w.basis_rows = w.basis_cols = w.bias_size = 1;
  w.basis = w.bias = &one;
  EXPECT_EQ(CheckBitplane(kPlain, w), "");
  w.basis_rows = 3;
  EXPECT_NE(CheckBitplane(kPlain, w).find("rows"), std::string::npos);
  w.basis_rows = 1;
  w.basis_cols = 2;
  EXPECT_NE(CheckBitplane(kPlain, w).find("columns"), std::string::npos);
  w.basis_cols = 1;
  w.input_planes = w.input_basis_size = w.direction_size = 1;
  w.threshold_rows = 3;
  w.num_thresholds = 1;
  EXPECT_NE(CheckBitplane(kPlain, w).find("thresholds"), std::string::npos);
}

TEST(Checks, WeightsThatLanesMakeTooMany) {
  ConvGeometry g = kPlain;
  g.out_c = 1;
  g.in_c = 1 << 29;  // bits of a row: with 32 lanes 2^31 bytes
  BitplaneWeights w{};
  w.weight_planes = w.input_planes = 1;
  w.bits_in = true;
  EXPECT_NE(CheckBitplane(g, w).find("planes take more than 1 GiB"), std::string::npos);
}

TEST(Checks, InstructionSetsThatAreNotThere) {
  for (const char* name : {"avx9", "Scalar"}) {
    setenv("KERASQ_ISA", name, 1);
    std::string error;
    EXPECT_EQ(MakeCodebookConv(kPlain, SmallCodebook().w, &error), nullptr);
    EXPECT_NE(error.find(name), std::string::npos);
    EXPECT_NE(error.find(Isas().back()), std::string::npos);
  }
  unsetenv("KERASQ_ISA");
  EXPECT_EQ(CheckIsa(), "");
}

}  // namespace
}  // namespace kerasq
