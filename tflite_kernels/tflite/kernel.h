// The life of an operator in the runtime: init, prepare, invoke, free.
#ifndef KERASQ_TFLITE_KERNEL_H_
#define KERASQ_TFLITE_KERNEL_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tflite/conv_op.h"
#include "tflite/status.h"
#include "tflite/tflite_c_api.h"
#include "tflite/thread_pools.h"

namespace kerasq {

class Kernel {
 public:
  // `label` names the operator in messages.
  Kernel(std::string label, std::unique_ptr<ConvOp> op, int scratch_tensor)
      : label_(std::move(label)), op_(std::move(op)), scratch_tensor_(scratch_tensor) {}

  // Indices of tensors. Needed before Prepare.
  void SetTensors(const TfLiteIntArray& inputs, const TfLiteIntArray& outputs);

  Status Prepare(TfLiteContext* context, TfLiteNode* node);
  Status Invoke(TfLiteContext* context) const;

  const std::string& label() const { return label_; }
  const ConvOp& op() const { return *op_; }

 private:
  const std::string label_;
  const std::unique_ptr<ConvOp> op_;
  const int scratch_tensor_;
  std::vector<int> inputs_, outputs_;
  size_t input_bytes_ = 0, output_bytes_ = 0;
  std::shared_ptr<ThreadPool> pool_;
};

// Make a kernel, and a tensor for its scratch in `context`.
Status NewKernel(TfLiteContext* context, const std::string& label, std::unique_ptr<ConvOp> op,
                 std::unique_ptr<Kernel>* kernel);

// The runtime's callbacks, for nodes whose user_data is a Kernel. Init is the caller's.
void FreeKernel(TfLiteContext* context, void* kernel);
TfLiteStatus PrepareKernel(TfLiteContext* context, TfLiteNode* node);
TfLiteStatus InvokeKernel(TfLiteContext* context, TfLiteNode* node);
const char* ProfileKernel(const TfLiteContext* context, const TfLiteNode* node);

// Call `action`; report an error, or what it throws, to the runtime under `label`.
TfLiteStatus Report(TfLiteContext* context, const std::string& label,
                    const std::function<Status()>& action);

}  // namespace kerasq

#endif  // KERASQ_TFLITE_KERNEL_H_
