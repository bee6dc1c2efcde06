// Fuzzes options, shapes and buffers of every operator in the runtime of the tests.
//
// An input chooses a valid operator, then what to damage in its file and in the runtime's memory,
// then how often to resize, prepare and run it. Whatever it says must end in success or a message,
// and what runs must give the same whatever its scratch memory held before.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "fuzz/choices.h"
#include "tests/failing_new.h"
#include "tests/tflite_any_operator.h"
#include "tests/tflite_fake_runtime.h"
#include "tflite/options.h"

extern "C" {
TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);
}

namespace kerasq {
namespace {

// Bounds of one execution, far above what the valid operators need.
constexpr double kLargestTensor = 1 << 22;
constexpr size_t kLargestConstant = 1 << 16;
constexpr double kMostWork = 1 << 23;     // multiply-adds
constexpr double kMostWeights = 1 << 18;  // that are decoded

constexpr int64_t kNumbers[] = {0,           1,         2,         3,
                                4,           5,         7,         8,
                                9,           15,        16,        17,
                                31,          32,        33,        63,
                                64,          65,        127,       128,
                                255,         256,       257,       300,
                                1 << 12,     65535,     65536,     1 << 20,
                                1 << 20 | 1, 1 << 24,   1 << 30,   INT32_MAX,
                                INT32_MIN,   -1,        -8,        1ll << 31,
                                1 << 28,     1 << 10,   1 << 15,   1ll << 62,
                                INT64_MAX,   INT64_MIN, 1ll << 32, (1 << 20) - 1};
constexpr float kFloats[] = {0.0f,      -0.0f,    1.0f,     -1.0f,  NAN,  INFINITY,
                             -INFINITY, 3.4e+38f, 1.0e-40f, 1.0e9f, 0.5f, -3.4e+38f};
constexpr TfLiteType kTypes[] = {kTfLiteFloat32, kTfLiteInt32,  kTfLiteUInt8,   kTfLiteInt64,
                                 kTfLiteInt8,    kTfLiteNoType, kTfLiteFloat16, TfLiteType(77)};

// The bytes of a tensor of that shape, or none where it has no sensible size.
std::vector<uint8_t> Fit(const FileTensor& tensor) {
  double bytes = static_cast<double>(TypeBytes(tensor.type));
  for (int size : tensor.shape) bytes *= size;
  std::vector<uint8_t> fitted = tensor.bytes;
  if (bytes >= 0 && bytes <= kLargestConstant) fitted.resize(static_cast<size_t>(bytes), 1);
  return fitted;
}

void DamageTensor(Choices& choices, FileTensor* tensor) {
  std::vector<uint8_t>& bytes = tensor->bytes;
  switch (choices.Below(6)) {
    case 0:
      if (!tensor->shape.empty()) {
        tensor->shape[choices.Below(static_cast<int>(tensor->shape.size()))] =
            static_cast<int>(choices.Of(kNumbers));
      }
      break;
    case 1:
      tensor->shape.push_back(choices.Byte());
      break;
    case 2:
      if (!tensor->shape.empty()) tensor->shape.pop_back();
      break;
    case 3:
      tensor->type = choices.Of(kTypes);
      break;
    case 4:
      for (int left = choices.Below(8); left >= 0 && !bytes.empty(); --left) {
        bytes[choices.Below(65536) % bytes.size()] = choices.Byte();
      }
      return;
    default:
      if (bytes.size() >= sizeof(float)) {
        const float value = choices.Of(kFloats);
        std::memcpy(&bytes[choices.Below(65536) % (bytes.size() / 4) * 4], &value, sizeof(value));
      }
      return;
  }
  if (choices.Byte() % 4 != 0) bytes = Fit(*tensor);
}

void DamageFile(Choices& choices, AnyOperator* any) {
  auto option = any->options.begin();
  std::advance(option, choices.Below(static_cast<int>(any->options.size())));
  FileTensor& tensor = any->tensors[choices.Below(static_cast<int>(any->tensors.size()))];
  switch (choices.Below(5)) {
    case 0:
      option->second = choices.Of(kNumbers);
      break;
    case 1:
      option->second =
          static_cast<int64_t>(static_cast<uint64_t>(option->second) + choices.Byte() - 128);
      break;
    case 2:
      if (any->options.size() > 1) any->options.erase(option);
      break;
    case 3:
      std::swap(tensor, any->tensors.back());
      break;
    default:
      DamageTensor(choices, &tensor);
  }
}

// What no file holds, but another runtime or another delegate may do.
void DamageMemory(Choices& choices, FakeRuntime* runtime, std::string* options) {
  const int index = choices.Below(static_cast<int>(runtime->tensors.size()));
  TfLiteTensor& tensor = runtime->tensors[index];
  TfLiteIntArray* inputs = runtime->nodes[0].node.inputs;
  switch (choices.Below(7)) {
    case 0:
      (*options)[choices.Below(static_cast<int>(options->size()))] =
          static_cast<char>(choices.Byte());
      break;
    case 1:
      options->resize(1 + choices.Below(static_cast<int>(options->size())));
      break;
    case 2:
      tensor.allocation_type = choices.Byte() % 2 ? kTfLiteArenaRw : kTfLiteMmapRo;
      break;
    case 3:
      tensor.data.data = nullptr;
      break;
    case 4:
      std::free(tensor.dims);
      tensor.dims = nullptr;
      break;
    case 5:
      inputs->data[choices.Below(inputs->size)] = choices.Byte() - 2;
      break;
    default:
      if (inputs->size > 1) --inputs->size;
  }
}

// The options as the operator reads them, without those that are missing.
std::map<std::string, int> ReadOptions(const std::string& bytes) {
  std::map<std::string, int> values = {{"kernel_h", 1}, {"kernel_w", 1}, {"channels_out", 1}};
  Options options;
  if (!Options::Parse(bytes.data(), bytes.size(), &options).ok()) return values;
  for (auto& value : values) {
    if (options.Has(value.first.c_str())) {
      (void)options.Get(value.first.c_str(), 0, INT32_MAX, &value.second).ok();
    }
  }
  return values;
}

class Execution {
 public:
  Execution(FakeRuntime* runtime, const std::string& options) : runtime_(*runtime) {
    const auto values = ReadOptions(options);
    taps_ = static_cast<double>(values.at("kernel_h")) * values.at("kernel_w");
    channels_out_ = values.at("channels_out");
  }

  // False where the weights would take too long to decode for a fuzzer.
  bool Prepare() {
    const double weights = taps_ * channels_out_ * ChannelsIn();
    if (weights > kMostWeights && weights <= 1 << 28) return false;
    runtime_.errors.clear();
    prepared_ = runtime_.Prepare() == kTfLiteOk;
    if (!prepared_ && runtime_.errors.empty()) std::abort();  // refused without a word
    return true;
  }

  void Invoke(uint8_t seed) {
    const TfLiteTensor& output = runtime_.tensors[1];
    const double work = static_cast<double>(output.bytes) / 4 * taps_ * ChannelsIn();
    if (prepared_ && work > kMostWork) return;
    FillInput(seed);
    FillOthers(0xab);
    if (!Run()) return;
    const std::vector<uint8_t> first(output.data.uint8, output.data.uint8 + output.bytes);
    FillOthers(0);
    if (!Run() || !std::equal(first.begin(), first.end(), output.data.uint8)) std::abort();
  }

 private:
  double ChannelsIn() const {
    const TfLiteIntArray* shape = runtime_.tensors[0].dims;
    return shape == nullptr || shape->size == 0 ? 0 : shape->data[shape->size - 1];
  }

  bool Run() {
    const bool ran = runtime_.Invoke() == kTfLiteOk;
    if (ran && !prepared_) std::abort();  // on what was never checked
    return ran;
  }

  void FillInput(uint8_t seed) {
    TfLiteTensor& input = runtime_.tensors[0];
    if (input.data.data == nullptr || input.type != kTfLiteFloat32) return;
    Random random(seed);
    for (size_t i = 0; i < input.bytes / sizeof(float); ++i) {
      input.data.f[i] = seed % 4 == 3 ? kFloats[random.Int(0, 11)] : random.Float();
    }
  }

  // The output and the scratch memory may hold anything.
  void FillOthers(uint8_t value) {
    for (size_t i = 1; i < runtime_.tensors.size(); ++i) {
      TfLiteTensor& tensor = runtime_.tensors[i];
      const bool own = tensor.data.data == runtime_.memory[i].get() && tensor.data.data != nullptr;
      if (own && tensor.allocation_type == kTfLiteArenaRw) {
        std::memset(tensor.data.data, value, tensor.bytes);
      }
    }
  }

  FakeRuntime& runtime_;
  double taps_, channels_out_;
  bool prepared_ = false;
};

void ResizeInput(Choices& choices, FakeRuntime* runtime) {
  const TfLiteIntArray* dims = runtime->tensors[0].dims;
  if (dims == nullptr || dims->size == 0) return;
  std::vector<int> shape(dims->data, dims->data + dims->size);
  shape[choices.Below(dims->size)] =
      choices.Byte() % 4 == 0 ? static_cast<int>(choices.Of(kNumbers)) : choices.Below(12);
  runtime->Resize(0, shape);
}

void FuzzOne(Choices& choices, TfLiteDelegate* delegate) {
  const int kind = choices.Below(AnyOperator::kKinds);
  Random random(choices.Below(65536));
  AnyOperator any(random, kind);
  for (int left = choices.Below(6); left > 0; --left) DamageFile(choices, &any);

  FakeRuntime runtime;
  runtime.largest = kLargestTensor;
  runtime.context.recommended_num_threads = 1 + choices.Byte() % 8 / 7;
  any.AddTo(&runtime, choices.Byte() % 4 == 0 ? 8 : 4);
  std::string options = runtime.nodes[0].options;
  for (int left = choices.Byte() % 32 - 28; left > 0; --left) {
    DamageMemory(choices, &runtime, &options);
  }
  // Just their size, so that a sanitizer sees any read beyond them.
  const std::vector<char> exact(options.begin(), options.end());
  FakeRuntime::Node& node = runtime.nodes[0];
  if (delegate != nullptr) {
    node.node.custom_initial_data = exact.data();
    node.node.custom_initial_data_size = static_cast<int>(exact.size());
    if (delegate->Prepare(&runtime.context, delegate) != kTfLiteOk) return;
  } else {
    node.kernel = RegistrationOf(kind);
    node.node.user_data = node.kernel.init(&runtime.context, exact.data(), exact.size());
  }
  if (node.node.user_data == nullptr) {
    if (runtime.errors.empty()) std::abort();  // refused without a word
    return;
  }
  Execution execution(&runtime, options);
  for (int left = choices.Below(4); left >= 0; --left) {
    const int allocations = choices.Byte();
    if (allocations >= 192) AllocationsLeft() = allocations - 192;
    const bool affordable = execution.Prepare();
    AllocationsLeft() = -1;
    if (!affordable) return;
    execution.Invoke(choices.Byte());
    ResizeInput(choices, &runtime);
  }
}

}  // namespace
}  // namespace kerasq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kerasq::Choices choices(data, size);
  if (choices.Byte() % 4 != 0) {
    kerasq::FuzzOne(choices, nullptr);
    return 0;
  }
  TfLiteDelegate* delegate = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
  kerasq::FuzzOne(choices, delegate);
  tflite_plugin_destroy_delegate(delegate);
  return 0;
}
