#include <memory>
#include <utility>

#include "kerasq/tflite_operators.h"
#include "tflite/conv_op.h"
#include "tflite/export.h"
#include "tflite/kernel.h"

namespace kerasq {
namespace {

constexpr char kBitplaneConv2D[] = "KerasqBitplaneConv2D";
constexpr char kBitplaneDense[] = "KerasqBitplaneDense";
constexpr char kBitpack[] = "KerasqBitpack";
constexpr char kBitpackMaxPool2D[] = "KerasqBitpackMaxPool2D";
constexpr char kCodebookConv2D[] = "KerasqCodebookConv2D";
constexpr char kCodebookDense[] = "KerasqCodebookDense";
constexpr char kSparseConv2D[] = "KerasqSparseConv2D";
constexpr char kSparseDense[] = "KerasqSparseDense";
constexpr char kHashedDense[] = "KerasqHashedDense";

// The runtime hands init the options, but not the name: one function per operator.
template <const char* kName>
void* Init(TfLiteContext* context, const char* buffer, size_t length) {
  std::unique_ptr<Kernel> kernel;
  const TfLiteStatus status = Report(context, kName, [&] {
    std::unique_ptr<ConvOp> op;
    KERASQ_RETURN_IF_ERROR(ConvOp::Create(kName, buffer, length, &op));
    return NewKernel(context, kName, std::move(op), &kernel);
  });
  return status == kTfLiteOk ? kernel.release() : nullptr;
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* kernel = static_cast<Kernel*>(node->user_data);
  if (kernel == nullptr) return kTfLiteError;  // init has said why
  return Report(context, kernel->label(), [&] {
    kernel->SetTensors(*node->inputs, *node->outputs);
    return kernel->Prepare(context, node);
  });
}

template <const char* kName>
TfLiteRegistration* Registration() {
  static TfLiteRegistration registration = [] {
    TfLiteRegistration made = {};
    made.init = Init<kName>;
    made.free = FreeKernel;
    made.prepare = Prepare;
    made.invoke = InvokeKernel;
    made.profiling_string = ProfileKernel;
    made.custom_name = kName;
    made.version = 1;
    return made;
  }();
  return &registration;
}

}  // namespace
}  // namespace kerasq

extern "C" {

KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPLANE_CONV_2D() {
  return kerasq::Registration<kerasq::kBitplaneConv2D>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPLANE_DENSE() {
  return kerasq::Registration<kerasq::kBitplaneDense>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPACK() {
  return kerasq::Registration<kerasq::kBitpack>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_BITPACK_MAX_POOL_2D() {
  return kerasq::Registration<kerasq::kBitpackMaxPool2D>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_CODEBOOK_CONV_2D() {
  return kerasq::Registration<kerasq::kCodebookConv2D>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_CODEBOOK_DENSE() {
  return kerasq::Registration<kerasq::kCodebookDense>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_SPARSE_CONV_2D() {
  return kerasq::Registration<kerasq::kSparseConv2D>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_SPARSE_DENSE() {
  return kerasq::Registration<kerasq::kSparseDense>();
}
KERASQ_EXPORT TfLiteRegistration* KerasqRegister_HASHED_DENSE() {
  return kerasq::Registration<kerasq::kHashedDense>();
}

const char* KerasqVersion() { return KERASQ_VERSION; }

}  // extern "C"
