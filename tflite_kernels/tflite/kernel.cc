#include "tflite/kernel.h"

#include <cstdlib>

#include "tflite/tensors.h"

namespace kerasq {
namespace {

constexpr size_t kScratchAlignment = 64;
constexpr size_t kElementBytes = 4;  // of a float, and of a word of bits

TfLiteTensor* FindTensor(TfLiteContext* context, int index) {
  const bool exists = index >= 0 && static_cast<size_t>(index) < context->tensors_size;
  return exists ? &context->tensors[index] : nullptr;
}

Status Resize(TfLiteContext* context, TfLiteTensor* tensor, const std::vector<int>& shape) {
  KERASQ_ENSURE(context->ResizeTensor(context, tensor, NewIntArray(shape)) == kTfLiteOk,
                "the runtime cannot allocate ", tensor->name ? tensor->name : "its scratch memory");
  return Status::Ok();
}

// Scratch as rows of the alignment, one more than asked for: the runtime's own alignment may be
// less.
Status ScratchShape(size_t bytes, std::vector<int>* shape) {
  const size_t rows = bytes / kScratchAlignment + 2;
  KERASQ_ENSURE(rows < (size_t{1} << 31) / kScratchAlignment,
                "it needs more than 2 GiB of scratch memory: feed a smaller input");
  *shape = {static_cast<int>(rows), static_cast<int>(kScratchAlignment)};
  return Status::Ok();
}

void* Align(void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  return reinterpret_cast<void*>((address + kScratchAlignment - 1) & ~(kScratchAlignment - 1));
}

void SetTemporary(TfLiteNode* node, int tensor) {
  if (node->temporaries == nullptr || node->temporaries->size != 1) {
    TfLiteIntArray* made = NewIntArray({tensor});
    std::free(node->temporaries);  // the runtime frees its arrays so, too
    node->temporaries = made;
  }
  node->temporaries->data[0] = tensor;
}

}  // namespace

Status NewKernel(TfLiteContext* context, const std::string& label, std::unique_ptr<ConvOp> op,
                 std::unique_ptr<Kernel>* kernel) {
  int scratch;
  KERASQ_ENSURE(context->AddTensors(context, 1, &scratch) == kTfLiteOk,
                "the runtime cannot add a tensor");
  *kernel = std::make_unique<Kernel>(label, std::move(op), scratch);
  return Status::Ok();
}

void Kernel::SetTensors(const TfLiteIntArray& inputs, const TfLiteIntArray& outputs) {
  prepared_ = false;
  inputs_.assign(inputs.data, inputs.data + inputs.size);
  outputs_.assign(outputs.data, outputs.data + outputs.size);
}

Status Kernel::Prepare(TfLiteContext* context, TfLiteNode* node) {
  prepared_ = false;  // an error below leaves the tensors and the operator apart
  TensorList inputs;
  for (int index : inputs_) {
    inputs.push_back(FindTensor(context, index));
    KERASQ_ENSURE(inputs.back() != nullptr, "its input number ", inputs.size() - 1, " is missing");
  }
  KERASQ_ENSURE(outputs_.size() == 1, "it has ", outputs_.size(), " outputs, expected 1");
  TfLiteTensor* output = FindTensor(context, outputs_[0]);
  KERASQ_ENSURE(output != nullptr, "its output is missing");
  if (op_->output_type() == kTfLiteInt32) {
    KERASQ_ENSURE(output->type == kTfLiteInt32, "its output has type ", TypeName(output->type),
                  ", expected int32: words of bits");
  } else {
    KERASQ_ENSURE(output->type == kTfLiteFloat32, "its output has type ", TypeName(output->type),
                  ", expected float32: put a Quantize operator after it, as the converter does");
  }
  std::vector<int> shape;
  KERASQ_RETURN_IF_ERROR(op_->Prepare(inputs, &shape));
  KERASQ_RETURN_IF_ERROR(Resize(context, output, shape));
  const ConvGeometry& geometry = op_->geometry();
  int64_t elements;
  KERASQ_RETURN_IF_ERROR(CountElements("its input", *inputs[0], &elements));
  input_bytes_ = kElementBytes * static_cast<size_t>(elements);
  output_bytes_ = kElementBytes;
  for (int size : shape) output_bytes_ *= static_cast<size_t>(size);

  pool_ = SharedThreadPool(context);
  TfLiteTensor* scratch = FindTensor(context, scratch_tensor_);
  KERASQ_ENSURE(scratch != nullptr, "its scratch memory is missing");
  scratch->type = kTfLiteUInt8;
  scratch->allocation_type = kTfLiteArenaRw;
  const size_t bytes =
      output_bytes_ == 0 ? 0 : op_->packed()->ScratchBytes(geometry, pool_->num_threads());
  KERASQ_RETURN_IF_ERROR(ScratchShape(bytes, &shape));
  scratch_bytes_ = static_cast<size_t>(shape[0]) * shape[1];
  KERASQ_RETURN_IF_ERROR(Resize(context, scratch, shape));
  SetTemporary(node, scratch_tensor_);
  prepared_ = true;
  if (counter_ != nullptr) counter_->Prepared(kernel_name(), scratch_bytes_);
  return Status::Ok();
}

Status Kernel::Invoke(TfLiteContext* context) const {
  KERASQ_ENSURE(prepared_, "it has not been prepared");
  if (output_bytes_ == 0) return Status::Ok();
  const TfLiteTensor* input = FindTensor(context, inputs_[0]);
  const TfLiteTensor* output = FindTensor(context, outputs_[0]);
  const TfLiteTensor* scratch = FindTensor(context, scratch_tensor_);
  KERASQ_ENSURE(input->bytes == input_bytes_ && output->bytes == output_bytes_ &&
                    scratch->bytes == scratch_bytes_,
                "its tensors changed their sizes since they were allocated");
  KERASQ_ENSURE(input->data.data != nullptr && output->data.data != nullptr && scratch->data.data,
                "its tensors have no memory: allocate the tensors first");
  op_->packed()->Run(op_->geometry(), input->data.data, output->data.data,
                     Align(scratch->data.data), pool_.get());
  return Status::Ok();
}

const char* Kernel::kernel_name() const {
  if (!prepared_ || output_bytes_ == 0) return nullptr;
  return op_->packed()->kernel_name(op_->geometry());
}

void FreeKernel(TfLiteContext*, void* kernel) { delete static_cast<Kernel*>(kernel); }

TfLiteStatus PrepareKernel(TfLiteContext* context, TfLiteNode* node) {
  // Without a kernel, init has failed and said why.
  auto* kernel = static_cast<Kernel*>(node->user_data);
  if (kernel == nullptr) return kTfLiteError;
  return Report(context, kernel->label(), [&] { return kernel->Prepare(context, node); });
}

TfLiteStatus InvokeKernel(TfLiteContext* context, TfLiteNode* node) {
  const auto* kernel = static_cast<const Kernel*>(node->user_data);
  if (kernel == nullptr) return kTfLiteError;
  const OperatorTimer timer(kernel->counter());
  return Report(context, kernel->label(), [&] { return kernel->Invoke(context); });
}

const char* ProfileKernel(const TfLiteContext*, const TfLiteNode* node) {
  const auto* kernel = static_cast<const Kernel*>(node->user_data);
  return kernel == nullptr ? nullptr : kernel->kernel_name();
}

}  // namespace kerasq
