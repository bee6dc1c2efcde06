// The delegate that a stock runtime loads.
#include <algorithm>

#include "tests/failing_new.h"
#include "tests/tflite_operator_cases.h"

extern "C" {
TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);
}

namespace kerasq {
namespace {

class Delegate : public testing::Test {
 protected:
  void SetUp() override { delegate_ = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr); }
  void TearDown() override { tflite_plugin_destroy_delegate(delegate_); }
  TfLiteDelegate* delegate_;
};

TEST_F(Delegate, RunsOperatorsInARow) {
  FakeRuntime runtime;
  BitplaneCase first, second(/*is_dense=*/true);
  second.dense = true;
  const int input = first.AddTo(&runtime);
  // The second reads the first's 6 channels: its planes hold 6 bits.
  second.AddTo(&runtime, input + 1);
  ASSERT_EQ(delegate_->Prepare(&runtime.context, delegate_), kTfLiteOk) << runtime.errors;
  for (const FakeRuntime::Node& node : runtime.nodes) EXPECT_EQ(node.node.delegate, delegate_);
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  std::mt19937 random(8);
  const std::vector<float> x = RandomFloats(&random, 2 * 5 * 6 * 4);
  std::copy(x.begin(), x.end(), runtime.Floats(input));
  ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
  const std::vector<float> middle = first.Expect(x, ConvolutionOf(2, 5, 3));
  const ConvGeometry rows = {36, 1, 1, 6, 1, 1, 6, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  const int last = runtime.nodes[1].node.outputs->data[0];
  EXPECT_EQ(runtime.Shape(last), std::vector<int>({2, 3, 6, 6}));
  ExpectNear(runtime.Floats(last), second.Expect(middle, rows));
}

TEST_F(Delegate, LeavesOtherOperatorsAlone) {
  FakeRuntime runtime;
  BitplaneCase().AddTo(&runtime);
  runtime.nodes[0].registration.custom_name = "SomeOtherOperator";
  ASSERT_EQ(delegate_->Prepare(&runtime.context, delegate_), kTfLiteOk) << runtime.errors;
  EXPECT_EQ(runtime.nodes[0].node.delegate, nullptr);
}

TEST_F(Delegate, RefusesDamagedOptionsAtOnce) {
  FakeRuntime runtime;
  BitplaneCase().AddTo(&runtime);
  runtime.nodes[0].node.custom_initial_data_size -= 3;
  EXPECT_EQ(delegate_->Prepare(&runtime.context, delegate_), kTfLiteError);
  EXPECT_NE(runtime.errors.find("KerasqBitplaneConv2D 'layer': its custom options"),
            std::string::npos)
      << runtime.errors;
}

TEST_F(Delegate, ReportsThatMemoryRunsOut) {
  int count = 0;
  for (bool failed = true; failed; ++count) {
    FakeRuntime runtime;
    BitplaneCase().AddTo(&runtime);
    TfLiteStatus status = kTfLiteOk;
    failed =
        RunsOutOfMemory(count, [&] { status = delegate_->Prepare(&runtime.context, delegate_); });
    const bool made = status == kTfLiteOk && runtime.nodes[0].node.user_data != nullptr;
    EXPECT_EQ(made, !failed) << count;
  }
  EXPECT_GT(count, 3);
}

TEST(DelegateOptions, AreRefusedEvenWithoutMemory) {
  static std::string message;
  char key[] = "speed", value[] = "11";
  char *keys[] = {key}, *values[] = {value};
  const auto report = [](const char* text) {
    const WithMemory enough;
    message = text;
  };
  RunsOutOfMemory(
      0, [&] { EXPECT_EQ(tflite_plugin_create_delegate(keys, values, 1, report), nullptr); });
  EXPECT_NE(message.find("no option 'speed'"), std::string::npos);
}

}  // namespace
}  // namespace kerasq
