// Runtimes of another layout: each must be refused, and none must crash us.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <random>

#include "tests/tflite_fake_runtime.h"
#include "tflite/layout_check.h"

extern "C" {
TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);
}

namespace kerasq {
namespace {

class LayoutCheck : public testing::Test {
 protected:
  void SetUp() override {
    delegate_ = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
    const float one = 1.0f;
    const int constant = runtime_.AddStored(kTfLiteFloat32, {1}, &one, sizeof(one));
    const int output = runtime_.AddTensor(kTfLiteFloat32, {1});
    runtime_.AddNode("KerasqBitplaneDense", {constant}, output, EncodeOptions({{"version", 1}}));
  }
  void TearDown() override { tflite_plugin_destroy_delegate(delegate_); }

  // Give the delegate a context of other bytes; it must not follow them.
  void ExpectRefused(const std::vector<uint64_t>& words) {
    std::vector<uint64_t> copy = words;
    auto* context = reinterpret_cast<TfLiteContext*>(copy.data());
    EXPECT_FALSE(CheckContext(context).ok());
    EXPECT_EQ(delegate_->Prepare(context, delegate_), kTfLiteError);
  }

  std::vector<uint64_t> ContextWords() const {
    std::vector<uint64_t> words(64, 0);
    std::memcpy(words.data(), &runtime_.context, sizeof(TfLiteContext));
    return words;
  }

  TfLiteDelegate* delegate_;
  FakeRuntime runtime_;
};

TEST_F(LayoutCheck, AcceptsTheKnownLayout) {
  EXPECT_TRUE(CheckContext(&runtime_.context).ok());
  const FakeRuntime::Node& node = runtime_.nodes[0];
  EXPECT_TRUE(CheckNode(&runtime_.context, &node.node, &node.registration).ok());
  EXPECT_TRUE(CheckNodeTensors(&runtime_.context, &node.node).ok());
}

TEST_F(LayoutCheck, RefusesAFieldMoreOrLess) {
  for (size_t position = 0; position < 9; ++position) {
    std::vector<uint64_t> more = ContextWords(), less = more;
    more.insert(more.begin() + position, 0);
    ExpectRefused(more);
    less.erase(less.begin() + position);
    ExpectRefused(less);
  }
}

TEST_F(LayoutCheck, RefusesWildPointers) {
  static int data[256];  // as long as what is read there: zeros, whatever lies behind it
  const uint64_t wild[] = {0, 1, 0xdeadbeefdeadbeef, 0x7fffffffffff0000,
                           reinterpret_cast<uint64_t>(data)};
  for (size_t field : {1, 2, 4, 5, 6, 7, 8}) {
    for (uint64_t pointer : wild) {
      std::vector<uint64_t> words = ContextWords();
      words[field] = pointer;
      ExpectRefused(words);
    }
  }
}

TEST_F(LayoutCheck, RefusesRandomContexts) {
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<uint64_t> words(64);
    for (uint64_t& word : words) word = random() >> (random() % 64);
    ExpectRefused(words);
  }
}

TEST_F(LayoutCheck, RefusesTensorsOfAnotherSize) {
  runtime_.AddTensor(kTfLiteFloat32, {2});
  std::vector<uint64_t> wider(256, 0);
  const size_t words = sizeof(TfLiteTensor) / 8;
  for (size_t i = 0; i < runtime_.tensors.size(); ++i) {
    std::memcpy(&wider[i * (words + 1)], &runtime_.tensors[i], sizeof(TfLiteTensor));
  }
  TfLiteContext context = runtime_.context;
  context.tensors = reinterpret_cast<TfLiteTensor*>(wider.data());
  EXPECT_FALSE(CheckContext(&context).ok());
}

TEST_F(LayoutCheck, RefusesNodesOfAnotherLayout) {
  FakeRuntime::Node& node = runtime_.nodes[0];
  const TfLiteNode good = node.node;
  for (size_t shift = 1; shift < 6; ++shift) {
    uint64_t words[32] = {};
    std::memcpy(words + shift, &good, sizeof(good));
    const auto* shifted = reinterpret_cast<const TfLiteNode*>(words);
    EXPECT_FALSE(CheckNode(&runtime_.context, shifted, &node.registration).ok()) << shift;
  }
  TfLiteRegistration registration = node.registration;
  registration.custom_name = reinterpret_cast<const char*>(uintptr_t{0x1234});
  EXPECT_FALSE(CheckNode(&runtime_.context, &good, &registration).ok());
}

TEST_F(LayoutCheck, RefusesThroughTheDelegateWithAMessage) {
  runtime_.nodes[0].node.inputs->data[0] = 1 << 20;
  EXPECT_EQ(delegate_->Prepare(&runtime_.context, delegate_), kTfLiteError);
  EXPECT_NE(runtime_.errors.find("layout that the library does not know (a node's inputs)"),
            std::string::npos)
      << runtime_.errors;
}

TEST_F(LayoutCheck, RefusesAConstantOfAnotherSize) {
  runtime_.tensors[0].bytes = 3;
  EXPECT_NE(CheckContext(&runtime_.context).message().find("a constant's size"), std::string::npos);
}

TEST_F(LayoutCheck, RefusesAConstantThatIsNowhere) {
  const uintptr_t wild = 0xfffffffffffffff8;
  for (void* data : {static_cast<void*>(nullptr), reinterpret_cast<void*>(wild)}) {
    runtime_.tensors[0].data.data = data;
    EXPECT_NE(CheckContext(&runtime_.context).message().find("a constant's data"),
              std::string::npos);
  }
}

TEST_F(LayoutCheck, RefusesANameThatIsNowhere) {
  const uintptr_t wild = 0xfffffffffffffff8;
  runtime_.tensors[0].name = reinterpret_cast<const char*>(wild);
  EXPECT_NE(CheckContext(&runtime_.context).message().find("a tensor's name"), std::string::npos);
}

TEST_F(LayoutCheck, AcceptsASparseConstant) {
  uint64_t sparsity[8] = {};
  runtime_.tensors[0].bytes = 3;
  runtime_.tensors[0].sparsity = reinterpret_cast<decltype(TfLiteTensor::sparsity)>(sparsity);
  EXPECT_TRUE(CheckContext(&runtime_.context).ok());
  const uintptr_t wild = 0x1234;
  runtime_.tensors[0].sparsity = reinterpret_cast<decltype(TfLiteTensor::sparsity)>(wild);
  EXPECT_NE(CheckContext(&runtime_.context).message().find("sparsity"), std::string::npos);
}

TEST_F(LayoutCheck, BlamesOpenFilesForAPipeThatCannotBeHad) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const Status status = CheckContext(&runtime_.context);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_NE(status.message().find("too many files open"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace kerasq
