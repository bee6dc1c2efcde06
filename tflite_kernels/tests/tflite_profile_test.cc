// Counters of what each operator ran and took.
#include <array>
#include <atomic>
#include <thread>

#include "tests/failing_new.h"
#include "tests/tflite_operator_cases.h"
#include "tflite/kernel.h"
#include "tflite/profile.h"

extern "C" {
TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);
}

namespace kerasq {
namespace {

std::string message;

void Keep(const char* text) { message = text; }

TfLiteDelegate* NewProfiledDelegate(std::string name) {
  char key[] = "profile";
  char *keys[] = {key}, *values[] = {name.data()};
  message.clear();
  return tflite_plugin_create_delegate(keys, values, 1, Keep);
}

class ProfiledDelegate : public testing::Test {
 protected:
  void SetUp() override { delegate_ = NewProfiledDelegate("test"); }
  void TearDown() override { tflite_plugin_destroy_delegate(delegate_); }

  void Start(FakeRuntime* runtime) {
    BitplaneCase convolution, dense(/*is_dense=*/true);
    dense.dense = true;
    dense.AddTo(runtime, convolution.AddTo(runtime) + 1);
    ASSERT_EQ(delegate_->Prepare(&runtime->context, delegate_), kTfLiteOk) << runtime->errors;
    ASSERT_EQ(runtime->Prepare(), kTfLiteOk) << runtime->errors;
  }

  TfLiteDelegate* delegate_;
};

TEST_F(ProfiledDelegate, CountsEveryRunOfEveryOperator) {
  FakeRuntime runtime;
  Start(&runtime);
  for (int run = 0; run < 3; ++run) ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
  std::array<KerasqOperatorProfile, 2> operators;
  ASSERT_EQ(KerasqProfile_Read("test", operators.data(), 2), 2);
  for (int node = 0; node < 2; ++node) {
    EXPECT_EQ(operators[node].node, node);
    EXPECT_EQ(std::string(operators[node].kernel).find("bitplane_"), 0u);
    EXPECT_EQ(operators[node].runs, 3u);
    EXPECT_GT(operators[node].nanoseconds, 0u);
    const TfLiteNode& replaced = runtime.nodes[node].node;
    EXPECT_EQ(operators[node].scratch_bytes, runtime.tensors[replaced.temporaries->data[0]].bytes);
  }
}

TEST_F(ProfiledDelegate, SaysWhereThereIsNothingToCompute) {
  FakeRuntime runtime;
  Start(&runtime);
  runtime.Resize(0, {0, 5, 6, 4});
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  KerasqOperatorProfile first;
  EXPECT_EQ(KerasqProfile_Read("test", &first, 1), 2);
  EXPECT_STREQ(first.kernel, "none");
}

TEST_F(ProfiledDelegate, LeavesOtherGraphsOut) {
  FakeRuntime first, second;
  Start(&first);
  Start(&second);
  ASSERT_EQ(second.Invoke(), kTfLiteOk);
  KerasqOperatorProfile operators[2];
  EXPECT_EQ(KerasqProfile_Read("test", operators, 2), 2);
  EXPECT_EQ(operators[0].runs, 0u);
}

TEST_F(ProfiledDelegate, IsReadWhileItRuns) {
  FakeRuntime runtime;
  Start(&runtime);
  std::atomic<bool> done(false);
  std::thread reader([&] {
    KerasqOperatorProfile operators[2];
    while (!done) EXPECT_EQ(KerasqProfile_Read("test", operators, 2), 2);
  });
  for (int run = 0; run < 50; ++run) EXPECT_EQ(runtime.Invoke(), kTfLiteOk);
  done = true;
  reader.join();
}

TEST_F(ProfiledDelegate, TakesANameOnce) {
  EXPECT_EQ(NewProfiledDelegate("test"), nullptr);
  EXPECT_NE(message.find("a profile 'test' already"), std::string::npos) << message;
}

TEST_F(ProfiledDelegate, IsGoneWithTheDelegateAndItsOperators) {
  EXPECT_EQ(KerasqProfile_Read("another", nullptr, 0), -1);
  {
    FakeRuntime runtime;
    Start(&runtime);
    tflite_plugin_destroy_delegate(delegate_);
    // The operators outlive it, and still count.
    EXPECT_EQ(runtime.Invoke(), kTfLiteOk);
  }
  EXPECT_EQ(KerasqProfile_Read("test", nullptr, 0), -1);
  delegate_ = NewProfiledDelegate("test");
  EXPECT_NE(delegate_, nullptr) << message;
}

TEST(Profiles, ReportThatMemoryRunsOut) {
  int count = 0;
  TfLiteDelegate* delegate = nullptr;
  char key[] = "profile", value[] = "a name too long to be stored in a string itself";
  char *keys[] = {key}, *values[] = {value};
  for (bool failed = true; failed; ++count) {
    failed = RunsOutOfMemory(
        count, [&] { delegate = tflite_plugin_create_delegate(keys, values, 1, nullptr); });
    EXPECT_EQ(delegate == nullptr, failed) << count;
  }
  EXPECT_GT(count, 2);
  tflite_plugin_destroy_delegate(delegate);
}

TEST(Profiles, AreOffUnlessAskedFor) {
  TfLiteDelegate* delegate = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
  FakeRuntime runtime;
  BitplaneCase().AddTo(&runtime);
  ASSERT_EQ(delegate->Prepare(&runtime.context, delegate), kTfLiteOk) << runtime.errors;
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk);
  ASSERT_EQ(runtime.Invoke(), kTfLiteOk);
  EXPECT_EQ(static_cast<Kernel*>(runtime.nodes[0].node.user_data)->counter(), nullptr);
  tflite_plugin_destroy_delegate(delegate);
}

}  // namespace
}  // namespace kerasq
