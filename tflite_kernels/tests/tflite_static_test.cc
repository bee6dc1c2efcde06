// The operators as an app has them that links kerasq_tflite_static: through the public header
// alone.
#include <gtest/gtest.h>

#include <cstring>

#include "kerasq/tflite_operators.h"
#include "tests/tflite_operator_cases.h"

namespace kerasq {
namespace {

TEST(StaticLibrary, RegistersEveryOperatorUnderItsName) {
  const std::pair<const TfLiteRegistration*, const char*> operators[] = {
      {KerasqRegister_BITPLANE_CONV_2D(), "KerasqBitplaneConv2D"},
      {KerasqRegister_BITPLANE_DENSE(), "KerasqBitplaneDense"},
      {KerasqRegister_CODEBOOK_CONV_2D(), "KerasqCodebookConv2D"},
      {KerasqRegister_CODEBOOK_DENSE(), "KerasqCodebookDense"},
      {KerasqRegister_SPARSE_CONV_2D(), "KerasqSparseConv2D"},
      {KerasqRegister_SPARSE_DENSE(), "KerasqSparseDense"},
      {KerasqRegister_HASHED_DENSE(), "KerasqHashedDense"},
  };
  for (const auto& [registration, name] : operators) EXPECT_STREQ(registration->custom_name, name);
  EXPECT_EQ(KerasqRegister_HASHED_DENSE(), KerasqRegister_HASHED_DENSE());
}

TEST(StaticLibrary, RunsAnOperator) {
  FakeRuntime runtime;
  const BitplaneCase test;
  const int input = test.AddTo(&runtime);
  runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  std::mt19937 random(1);
  const std::vector<float> x = RandomFloats(&random, 2 * 5 * 6 * 4);
  std::copy(x.begin(), x.end(), runtime.Floats(input));
  ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
  ExpectNear(runtime.Floats(input + 1), test.Expect(x, ConvolutionOf(2, 5, 3)));
}

TEST(StaticLibrary, TellsItsVersion) {
  EXPECT_EQ(std::count(KerasqVersion(), KerasqVersion() + std::strlen(KerasqVersion()), '.'), 2);
}

}  // namespace
}  // namespace kerasq
