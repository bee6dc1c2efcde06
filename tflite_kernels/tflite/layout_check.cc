#include "tflite/layout_check.h"

#include <link.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tflite/tensors.h"

namespace kerasq {
namespace {

constexpr size_t kMaxTensors = size_t{1} << 24;
// Enough to tell an array of another stride; those of our own nodes are checked besides.
constexpr size_t kCheckedTensors = 32;
constexpr int kMaxArray = 1 << 20;
constexpr int kMaxRank = 64;
// Fits in every pipe, so that a write never blocks.
constexpr size_t kChunk = 4096;

// Copies memory that may not be readable. The kernel reads it for us, into a pipe, and returns an
// error where we would crash.
class Probe {
 public:
  Probe() { open_ = pipe(ends_) == 0; }
  ~Probe() {
    if (!open_) return;
    close(ends_[0]);
    close(ends_[1]);
  }
  bool open() const { return open_; }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  bool Copy(const void* source, size_t bytes, void* target) const {
    const uintptr_t from = reinterpret_cast<uintptr_t>(source);  // may be null, or wild
    for (size_t done = 0; done < bytes;) {
      const size_t chunk = std::min(bytes - done, kChunk);
      // The bare call: sanitizers check the argument of write(), which may be wild on purpose.
      const long written = open_ ? syscall(SYS_write, ends_[1], from + done, chunk) : -1;
      if (written <= 0) return false;
      if (read(ends_[0], static_cast<char*>(target) + done, written) != written) return false;
      done += written;
    }
    return true;
  }

  template <typename T>
  bool Copy(const T* source, T* target) const {
    return reinterpret_cast<uintptr_t>(source) % alignof(T) == 0 && Copy(source, sizeof(T), target);
  }

  // Whether the last of so many bytes can be read.
  bool Reaches(const void* start, size_t bytes) const {
    char last;
    const uintptr_t end = reinterpret_cast<uintptr_t>(start) + bytes;
    return bytes == 0 || Copy(reinterpret_cast<const void*>(end - 1), 1, &last);
  }

  // A name: printable, ended by zero, not endless.
  bool IsName(const char* text) const {
    uintptr_t at = reinterpret_cast<uintptr_t>(text);
    for (size_t read = 0; read < kChunk;) {
      char chunk[64];  // up to a multiple of its size, so that it never leaves the page
      const size_t bytes = sizeof(chunk) - at % sizeof(chunk);
      if (!Copy(reinterpret_cast<const void*>(at), bytes, chunk)) return false;
      for (size_t i = 0; i < bytes; ++i) {
        if (chunk[i] == 0) return true;
        if (static_cast<unsigned char>(chunk[i]) < ' ') return false;
      }
      at += bytes;
      read += bytes;
    }
    return false;
  }

 private:
  int ends_[2];
  bool open_;
};

struct CodeSearch {
  uintptr_t address;
  bool found;
};

int FindCode(dl_phdr_info* object, size_t, void* data) {
  auto* search = static_cast<CodeSearch*>(data);
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& segment = object->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X)) continue;
    const uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
    search->found |= search->address >= begin && search->address - begin < segment.p_memsz;
  }
  return search->found;
}

// Whether the pointer is to code of a loaded library or of the program.
template <typename Function>
bool IsFunction(Function* pointer) {
  CodeSearch search = {reinterpret_cast<uintptr_t>(pointer), false};
  dl_iterate_phdr(FindCode, &search);
  return search.found;
}

// What could not be copied, or makes no sense.
Status Unknown(const Probe& probe, const char* what) {
  KERASQ_ENSURE(probe.open(),
                "the process has too many files open to look at the runtime's structs through a "
                "pipe: close some, or raise the limit (ulimit -n)");
  return Status::Error("this runtime has a layout that the library does not know (", what,
                       "): use ai-edge-litert 2.x or TensorFlow 2.18 to 2.21, or build kerasq with "
                       "KERASQ_TFLITE_INCLUDE_DIR set to the runtime's own headers");
}

Status CopyIntArray(const Probe& probe, const char* what, const TfLiteIntArray* array,
                    std::vector<int>* values) {
  const int* address = reinterpret_cast<const int*>(array);  // the size, then the elements
  int size;
  if (!probe.Copy(address, &size) || size < 0 || size > kMaxArray) return Unknown(probe, what);
  values->resize(size);
  if (!probe.Copy(address + 1, size * sizeof(int), values->data())) return Unknown(probe, what);
  return Status::Ok();
}

// The file's tensors have a shape; one that an operator has added may still lack it.
Status CheckTensor(const Probe& probe, const TfLiteTensor* address, bool from_file) {
  TfLiteTensor tensor;
  if (!probe.Copy(address, &tensor)) return Unknown(probe, "a tensor");
  if (static_cast<unsigned>(tensor.type) > 64) return Unknown(probe, "a tensor's type");
  if (static_cast<unsigned>(tensor.allocation_type) > 16)
    return Unknown(probe, "a tensor's allocation");
  if (tensor.name != nullptr && !probe.IsName(tensor.name))
    return Unknown(probe, "a tensor's name");
  if (tensor.dims == nullptr && !from_file) return Status::Ok();
  std::vector<int> shape;
  KERASQ_RETURN_IF_ERROR(CopyIntArray(probe, "a tensor's shape", tensor.dims, &shape));
  if (shape.size() > kMaxRank) return Unknown(probe, "a tensor's rank");
  if (tensor.allocation_type != kTfLiteMmapRo || TypeBytes(tensor.type) == 0) return Status::Ok();
  // One that the file stores without its zeros has fewer bytes than its shape.
  if (tensor.sparsity != nullptr) {
    return probe.Reaches(tensor.sparsity, 1) ? Status::Ok()
                                             : Unknown(probe, "a constant's sparsity");
  }
  size_t bytes = TypeBytes(tensor.type);
  for (int size : shape) bytes *= static_cast<size_t>(size);
  if (bytes != tensor.bytes) return Unknown(probe, "a constant's size");
  if (!probe.Reaches(tensor.data.data, bytes)) return Unknown(probe, "a constant's data");
  return Status::Ok();
}

}  // namespace

Status CheckContext(const TfLiteContext* context) {
  const Probe probe;
  TfLiteContext copy;
  if (!probe.Copy(context, &copy)) return Unknown(probe, "the context");
  if (copy.tensors_size > kMaxTensors) return Unknown(probe, "the number of tensors");
  if (!IsFunction(copy.GetExecutionPlan) || !IsFunction(copy.ResizeTensor) ||
      !IsFunction(copy.ReportError) || !IsFunction(copy.AddTensors) ||
      !IsFunction(copy.GetNodeAndRegistration) ||
      !IsFunction(copy.ReplaceNodeSubsetsWithDelegateKernels)) {
    return Unknown(probe, "the context's functions");
  }
  for (size_t i = 0; i < std::min(copy.tensors_size, kCheckedTensors); ++i) {
    KERASQ_RETURN_IF_ERROR(CheckTensor(probe, copy.tensors + i, i == 0));
  }
  return Status::Ok();
}

Status CheckIntArray(const char* what, const TfLiteIntArray* array, int64_t low, int64_t high) {
  const Probe probe;
  std::vector<int> values;
  KERASQ_RETURN_IF_ERROR(CopyIntArray(probe, what, array, &values));
  const bool within = std::all_of(values.begin(), values.end(),
                                  [=](int value) { return value >= low && value < high; });
  return within ? Status::Ok() : Unknown(probe, what);
}

Status CheckNode(const TfLiteContext* context, const TfLiteNode* node,
                 const TfLiteRegistration* registration) {
  const Probe probe;
  TfLiteNode node_copy;
  TfLiteRegistration registration_copy;
  if (!probe.Copy(node, &node_copy)) return Unknown(probe, "a node");
  if (!probe.Copy(registration, &registration_copy)) return Unknown(probe, "a registration");
  const char* name = registration_copy.custom_name;
  if (name != nullptr && !probe.IsName(name)) return Unknown(probe, "an operator's name");
  if (static_cast<unsigned>(registration_copy.builtin_code) > 4096) {
    return Unknown(probe, "an operator's code");
  }
  // -1 stands for an optional tensor that is left out.
  const auto count = static_cast<int64_t>(context->tensors_size);
  KERASQ_RETURN_IF_ERROR(CheckIntArray("a node's inputs", node_copy.inputs, -1, count));
  return CheckIntArray("a node's outputs", node_copy.outputs, -1, count);
}

Status CheckNodeTensors(const TfLiteContext* context, const TfLiteNode* node) {
  const Probe probe;
  for (const TfLiteIntArray* array : {node->inputs, node->outputs}) {
    for (int i = 0; i < array->size; ++i) {
      if (array->data[i] < 0) continue;
      KERASQ_RETURN_IF_ERROR(CheckTensor(probe, context->tensors + array->data[i], true));
    }
  }
  const int size = node->custom_initial_data_size;
  if (size < 0 || !probe.Reaches(node->custom_initial_data, size)) {
    return Unknown(probe, "a node's options");
  }
  return Status::Ok();
}

}  // namespace kerasq
