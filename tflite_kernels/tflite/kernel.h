// The life of an operator in the runtime: init, prepare, invoke, free.
#ifndef KERASQ_TFLITE_KERNEL_H_
#define KERASQ_TFLITE_KERNEL_H_

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tflite/conv_op.h"
#include "tflite/profile.h"
#include "tflite/status.h"
#include "tflite/tflite_c_api.h"
#include "tflite/thread_pools.h"

namespace kerasq {

class Kernel {
 public:
  // `label` names the operator in messages.
  Kernel(std::string label, std::unique_ptr<ConvOp> op, int scratch_tensor)
      : label_(std::move(label)), op_(std::move(op)), scratch_tensor_(scratch_tensor) {}

  // Indices of tensors. Needed before Prepare, and followed by it.
  void SetTensors(const TfLiteIntArray& inputs, const TfLiteIntArray& outputs);

  // What runs is counted there from the next Prepare on.
  void SetCounter(std::shared_ptr<OperatorCounter> counter) { counter_ = std::move(counter); }

  Status Prepare(TfLiteContext* context, TfLiteNode* node);
  Status Invoke(TfLiteContext* context) const;

  // The path that Invoke takes; null before Prepare, and where there is nothing to compute.
  const char* kernel_name() const;
  const char* label() const { return label_.c_str(); }
  // Null unless profiled.
  OperatorCounter* counter() const { return counter_.get(); }

 private:
  const std::string label_;
  const std::unique_ptr<ConvOp> op_;
  const int scratch_tensor_;
  std::vector<int> inputs_, outputs_;
  bool prepared_ = false;  // what follows, and the operator, fit the tensors
  size_t input_bytes_ = 0, output_bytes_ = 0, scratch_bytes_ = 0;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<OperatorCounter> counter_;
};

// Make a kernel, and a tensor for its scratch in `context`.
Status NewKernel(TfLiteContext* context, const std::string& label, std::unique_ptr<ConvOp> op,
                 std::unique_ptr<Kernel>* kernel);

// The runtime's callbacks, for nodes whose user_data is a Kernel. Init is the caller's.
void FreeKernel(TfLiteContext* context, void* kernel);
TfLiteStatus PrepareKernel(TfLiteContext* context, TfLiteNode* node);
TfLiteStatus InvokeKernel(TfLiteContext* context, TfLiteNode* node);
const char* ProfileKernel(const TfLiteContext* context, const TfLiteNode* node);

// Call `action`; hand `report` the message of its error, or of what it throws: no exception may
// leave through the runtime's C interface.
template <typename Action, typename ReportMessage>
TfLiteStatus Guard(const Action& action, const ReportMessage& report) {
  try {
    const Status status = action();
    if (status.ok()) return kTfLiteOk;
    report(status.message().c_str());
  } catch (const std::exception& error) {
    report(error.what());
  }
  return kTfLiteError;
}

// The same, reporting to the runtime under `label`.
template <typename Action>
TfLiteStatus Report(TfLiteContext* context, const char* label, const Action& action) {
  return Guard(action, [&](const char* message) {
    context->ReportError(context, "%s: %s. ", label, message);
  });
}

}  // namespace kerasq

#endif  // KERASQ_TFLITE_KERNEL_H_
