#include "core/kernels.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

TEST(Kernels, EnvironmentChoosesAndDefaultIsTheBest) {
  for (const std::string& isa : Isas()) {
    setenv("KERASQ_ISA", isa.c_str(), 1);
    EXPECT_EQ(SelectKernels().isa, isa);
  }
  unsetenv("KERASQ_ISA");
  EXPECT_EQ(SelectKernels().isa, Isas().back());
}

TEST(Kernels, HalfFloatsOfEveryKind) {
  EXPECT_EQ(HalfToFloat(0x3c00), 1.0f);
  EXPECT_EQ(HalfToFloat(0xc000), -2.0f);
  EXPECT_EQ(HalfToFloat(0x7bff), 65504.0f);
  EXPECT_EQ(HalfToFloat(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(HalfToFloat(0x8000), 0.0f);
  EXPECT_TRUE(std::signbit(HalfToFloat(0x8000)));
  EXPECT_EQ(HalfToFloat(0x7c00), INFINITY);
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7e00)));
}

TEST(Kernels, StreamsCrossBytes) {
  const uint8_t stream[] = {0b10100101, 0b11110000, 0b00001111};
  EXPECT_EQ(StreamElement(stream, 0, 3), 0b101);
  EXPECT_EQ(StreamElement(stream, 1, 3), 0b100);
  EXPECT_EQ(StreamElement(stream, 2, 3), 0b010);  // bits 6, 7 and 8
  EXPECT_EQ(StreamElement(stream, 7, 3), 0b000);
  EXPECT_EQ(StreamElement(stream, 1, 8), 0b11110000);
}

}  // namespace
}  // namespace kerasq
