// Every kind of operator from init to free: many after one another, and many at once.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/tflite_any_operator.h"

extern "C" {
TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);
}

namespace kerasq {
namespace {

// Returns what went wrong. Without a delegate, the operator is registered.
std::string RunOnce(const AnyOperator& any, int kind, int threads, TfLiteDelegate* delegate) {
  FakeRuntime runtime;
  runtime.context.recommended_num_threads = threads;
  any.AddTo(&runtime);
  if (delegate == nullptr) runtime.Register(RegistrationOf(kind));
  const bool done =
      (delegate == nullptr || delegate->Prepare(&runtime.context, delegate) == kTfLiteOk) &&
      runtime.Prepare() == kTfLiteOk && runtime.Invoke() == kTfLiteOk;
  return done ? "" : runtime.errors;
}

std::string MakeAndDestroy(const AnyOperator& any, int kind, int threads) {
  TfLiteDelegate* delegate = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
  const std::string wrong = RunOnce(any, kind, threads, delegate);
  tflite_plugin_destroy_delegate(delegate);
  return wrong;
}

std::vector<AnyOperator> OneOfEachKind(unsigned seed) {
  Random random(seed);
  std::vector<AnyOperator> operators;
  for (int kind = 0; kind < AnyOperator::kKinds; ++kind) operators.emplace_back(random, kind);
  return operators;
}

// Those that do not run are those whose kernel does not fit the input.
TEST(Lifetime, AnyOperatorRuns) {
  int ran = 0, total = 0;
  for (int seed = 0; seed < 60; ++seed) {
    const std::vector<AnyOperator> operators = OneOfEachKind(seed);
    for (int kind = 0; kind < AnyOperator::kKinds; ++kind, ++total) {
      const std::string wrong = RunOnce(operators[kind], kind, 1, nullptr);
      if (wrong.find("feed a larger input") != std::string::npos) continue;
      EXPECT_EQ(wrong, "") << operators[kind].name << ", seed " << seed;
      ++ran;
    }
  }
  EXPECT_GT(ran, total * 9 / 10);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// A sanitizer keeps what is freed, and looks for leaks itself.
size_t BytesInUse() { return 0; }
#else
// Of the heap, not of the process: an emulator's own memory grows with every thread.
size_t BytesInUse() {
  const struct mallinfo2 heap = mallinfo2();
  return heap.uordblks + heap.hblkhd;
}
#endif

#if defined(__SANITIZE_THREAD__)
constexpr int kCycles = 1000;  // it looks for no leaks, and makes threads slowly
#else
constexpr int kCycles = 10000;
#endif

// A sanitizer sees the smallest leak; without one, a byte each time shows.
TEST(Lifetime, TenThousandLeaveNothingBehind) {
  const std::vector<AnyOperator> operators = OneOfEachKind(1);
  const auto cycles = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const int kind = i % AnyOperator::kKinds;
      const std::string wrong = MakeAndDestroy(operators[kind], kind, 1 + i / 7 % 2);
      ASSERT_EQ(wrong, "") << operators[kind].name;
    }
  };
  cycles(kCycles / 10);
  const size_t before = BytesInUse();
  cycles(kCycles);
  EXPECT_LE(BytesInUse(), before + kCycles);
}

TEST(Lifetime, SeveralInterpretersInSeveralThreads) {
  TfLiteDelegate* shared = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
  const std::vector<AnyOperator> operators = OneOfEachKind(1);
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 21; ++i) {
        const int kind = (i + thread) % AnyOperator::kKinds;
        failures += !RunOnce(operators[kind], kind, 1 + thread % 3, shared).empty();
        failures += !RunOnce(operators[kind], kind, 1 + thread % 3, nullptr).empty();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  tflite_plugin_destroy_delegate(shared);
}

}  // namespace
}  // namespace kerasq
