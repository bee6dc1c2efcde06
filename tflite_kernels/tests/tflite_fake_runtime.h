// A runtime of a few lines: tensors, nodes, and the callbacks that operators and delegates use.
#ifndef KERASQ_TESTS_TFLITE_FAKE_RUNTIME_H_
#define KERASQ_TESTS_TFLITE_FAKE_RUNTIME_H_

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/failing_new.h"
#include "tflite/tensors.h"
#include "tflite/tflite_c_api.h"

namespace kerasq {

// A FlexBuffer map of integers whose offsets and values are `width` bytes wide.
inline std::string EncodeOptions(const std::map<std::string, int64_t>& values, int width = 4) {
  std::string bytes;
  const auto append = [&bytes, width](int64_t value) {
    for (int i = 0; i < width; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  };
  std::vector<size_t> keys;
  for (const auto& entry : values) {
    keys.push_back(bytes.size());
    bytes += entry.first + '\0';
  }
  const int log_width = width == 1 ? 0 : width == 2 ? 1 : width == 4 ? 2 : 3;
  const auto count = static_cast<int64_t>(values.size());
  append(count);
  const size_t keys_at = bytes.size();
  for (size_t key : keys) append(static_cast<int64_t>(bytes.size() - key));
  append(static_cast<int64_t>(bytes.size() - keys_at));
  append(width);
  append(count);
  const size_t map_at = bytes.size();
  for (const auto& entry : values) append(entry.second);
  bytes.append(values.size(), static_cast<char>(1 << 2 | log_width));
  append(static_cast<int64_t>(bytes.size() - map_at));
  bytes.push_back(static_cast<char>(9 << 2 | log_width));
  bytes.push_back(static_cast<char>(width));
  return bytes;
}

class FakeRuntime {
 public:
  FakeRuntime() {
    std::memset(&context, 0, sizeof(context));
    context.impl_ = this;
    context.GetExecutionPlan = GetExecutionPlan;
    context.ResizeTensor = ResizeTensor;
    context.ReportError = ReportError;
    context.AddTensors = AddTensors;
    context.GetNodeAndRegistration = GetNodeAndRegistration;
    context.ReplaceNodeSubsetsWithDelegateKernels = Replace;
    context.recommended_num_threads = 2;
  }

  ~FakeRuntime() {
    for (Node& node : nodes) {
      if (node.kernel.free != nullptr) node.kernel.free(&context, node.node.user_data);
      std::free(node.node.inputs);
      std::free(node.node.outputs);
      std::free(node.node.temporaries);
    }
    for (TfLiteTensor& tensor : tensors) std::free(tensor.dims);
    std::free(plan_);
  }
  FakeRuntime(const FakeRuntime&) = delete;
  FakeRuntime& operator=(const FakeRuntime&) = delete;

  // Add a tensor that is computed.
  int AddTensor(TfLiteType type, const std::vector<int>& shape) {
    TfLiteTensor tensor = {};
    tensor.type = type;
    tensor.name = "layer";
    tensor.allocation_type = kTfLiteArenaRw;
    tensors.push_back(tensor);
    memory.emplace_back(nullptr, std::free);
    Refresh();
    const int index = static_cast<int>(tensors.size()) - 1;
    Resize(index, shape);
    return index;
  }

  // Add a constant of the file, whose bytes need not fit its shape.
  int AddStored(TfLiteType type, const std::vector<int>& shape, const void* data, size_t bytes) {
    const int index = AddTensor(kTfLiteUInt8, {static_cast<int>(bytes)});
    TfLiteTensor& tensor = tensors[index];
    if (bytes > 0) std::memcpy(tensor.data.data, data, bytes);
    std::free(tensor.dims);
    tensor.dims = NewIntArray(shape);
    tensor.type = type;
    tensor.allocation_type = kTfLiteMmapRo;
    return index;
  }

  template <typename T>
  int AddConstant(TfLiteType type, const std::vector<int>& shape, const std::vector<T>& values) {
    return AddStored(type, shape, values.data(), values.size() * sizeof(T));
  }

  // Whether there is memory for that shape; without, the tensor has none.
  bool Resize(int index, const std::vector<int>& shape) {
    TfLiteTensor& tensor = tensors[index];
    std::free(tensor.dims);
    tensor.dims = NewIntArray(shape);
    double bytes = static_cast<double>(TypeBytes(tensor.type));
    for (int size : shape) bytes *= size;
    const bool fits = bytes >= 0 && bytes <= largest;
    tensor.bytes = fits ? static_cast<size_t>(bytes) : 0;
    // Just its size, so that a sanitizer sees any access beyond it.
    memory[index].reset(fits ? std::calloc(tensor.bytes, 1) : nullptr);
    tensor.data.data = memory[index].get();
    return fits;
  }

  // Add an operator of the file to the execution plan.
  void AddNode(const char* name, const std::vector<int>& inputs, int output,
               const std::string& options) {
    nodes.emplace_back();
    Node& added = nodes.back();
    added.name = name;
    added.options = options;
    added.node.inputs = NewIntArray(inputs);
    added.node.outputs = NewIntArray({output});
    added.node.custom_initial_data = added.options.data();
    added.node.custom_initial_data_size = static_cast<int>(added.options.size());
    added.registration.custom_name = added.name.c_str();
  }

  // Make the kernel of the last node, as for an operator that the app has registered.
  void Register(const TfLiteRegistration& registration) {
    Node& node = nodes.back();
    node.kernel = registration;
    node.node.user_data = registration.init(&context, node.options.data(), node.options.size());
  }

  TfLiteStatus Prepare() { return ForAll(&TfLiteRegistration::prepare); }
  TfLiteStatus Invoke() { return ForAll(&TfLiteRegistration::invoke); }

  std::vector<int> Shape(int index) const {
    const TfLiteIntArray* dims = tensors[index].dims;
    return std::vector<int>(dims->data, dims->data + dims->size);
  }
  float* Floats(int index) { return tensors[index].data.f; }

  struct Node {
    std::string name, options;
    TfLiteNode node = {};
    TfLiteRegistration registration = {};
    TfLiteRegistration kernel = {};
  };

  TfLiteContext context;
  std::vector<TfLiteTensor> tensors;
  std::deque<std::unique_ptr<void, decltype(&std::free)>> memory;
  std::deque<Node> nodes;
  std::string errors;
  int refused = -1;          // a tensor that ResizeTensor cannot allocate
  double largest = 1 << 28;  // bytes of a tensor that it can

 private:
  using Callback = TfLiteStatus (*)(TfLiteContext*, TfLiteNode*);

  static FakeRuntime& Of(TfLiteContext* context) {
    return *static_cast<FakeRuntime*>(context->impl_);
  }

  void Refresh() {
    context.tensors = tensors.data();
    context.tensors_size = tensors.size();
  }

  TfLiteStatus ForAll(Callback TfLiteRegistration::*callback) {
    for (Node& node : nodes) {
      if ((node.kernel.*callback)(&context, &node.node) != kTfLiteOk) return kTfLiteError;
    }
    return kTfLiteOk;
  }

  static TfLiteStatus GetExecutionPlan(TfLiteContext* context, TfLiteIntArray** plan) {
    const WithMemory enough;
    FakeRuntime& runtime = Of(context);
    std::vector<int> indices;
    for (size_t i = 0; i < runtime.nodes.size(); ++i) indices.push_back(static_cast<int>(i));
    std::free(runtime.plan_);
    *plan = runtime.plan_ = NewIntArray(indices);
    return kTfLiteOk;
  }

  static TfLiteStatus ResizeTensor(TfLiteContext* context, TfLiteTensor* tensor,
                                   TfLiteIntArray* size) {
    const WithMemory enough;
    FakeRuntime& runtime = Of(context);
    const int index = static_cast<int>(tensor - context->tensors);
    const std::vector<int> shape(size->data, size->data + size->size);
    std::free(size);
    if (index == runtime.refused) return kTfLiteError;
    return runtime.Resize(index, shape) ? kTfLiteOk : kTfLiteError;
  }

  static void ReportError(TfLiteContext* context, const char* format, ...) {
    const WithMemory enough;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    Of(context).errors += text;
  }

  static TfLiteStatus AddTensors(TfLiteContext* context, int count, int* first) {
    const WithMemory enough;
    FakeRuntime& runtime = Of(context);
    *first = static_cast<int>(runtime.tensors.size());
    for (int i = 0; i < count; ++i) runtime.AddTensor(kTfLiteFloat32, {0});
    return kTfLiteOk;
  }

  static TfLiteStatus GetNodeAndRegistration(TfLiteContext* context, int index, TfLiteNode** node,
                                             TfLiteRegistration** registration) {
    *node = &Of(context).nodes[index].node;
    *registration = &Of(context).nodes[index].registration;
    return kTfLiteOk;
  }

  static TfLiteStatus Replace(TfLiteContext* context, TfLiteRegistration registration,
                              const TfLiteIntArray* replaced, TfLiteDelegate* delegate) {
    const TfLiteDelegateParams params = {delegate, const_cast<TfLiteIntArray*>(replaced), nullptr,
                                         nullptr};
    for (int i = 0; i < replaced->size; ++i) {
      Node& node = Of(context).nodes[replaced->data[i]];
      node.kernel = registration;
      node.node.delegate = delegate;
      node.node.user_data = registration.init(context, reinterpret_cast<const char*>(&params), 0);
    }
    return kTfLiteOk;
  }

  TfLiteIntArray* plan_ = nullptr;
};

}  // namespace kerasq

#endif  // KERASQ_TESTS_TFLITE_FAKE_RUNTIME_H_
