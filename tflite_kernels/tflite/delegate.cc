// The delegate that a stock runtime loads from this library: it claims every Kerasq operator.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tflite/conv_op.h"
#include "tflite/export.h"
#include "tflite/kernel.h"
#include "tflite/layout_check.h"
#include "tflite/profile.h"
#include "tflite/tensors.h"

namespace kerasq {
namespace {

constexpr char kPrefix[] = "Kerasq";
constexpr char kLibrary[] = "kerasq";
constexpr char kProfileOption[] = "profile";

// The runtime knows the base only, and hands it back.
struct KerasqDelegate : TfLiteDelegate {
  std::shared_ptr<Profile> profile;  // null unless asked for
};

struct Claim {
  int node;
  const char* name;  // one of kOperatorNames: it outlives the file
  std::string label;
};

// The operator's name and that of its output, which is the layer's in most files.
std::string Label(const TfLiteContext* context, const TfLiteNode& node, const char* name) {
  if (node.outputs->size == 0 || node.outputs->data[0] < 0) return name;
  const char* output = context->tensors[node.outputs->data[0]].name;
  return output == nullptr ? name : std::string(name) + " '" + output + "'";
}

// Check the options; find the operator's name among ours.
Status CheckClaim(const TfLiteNode& node, const char* name, const char** known_name) {
  std::unique_ptr<ConvOp> op;
  KERASQ_RETURN_IF_ERROR(
      ConvOp::Create(name, node.custom_initial_data, node.custom_initial_data_size, &op));
  const char* const* known = kOperatorNames;
  while (std::strcmp(*known, name) != 0) ++known;
  *known_name = *known;
  return Status::Ok();
}

// Find our nodes, and check their options now: the runtime passes on the message of an error.
Status FindClaims(TfLiteContext* context, std::vector<Claim>* claims) {
  TfLiteIntArray* plan = nullptr;
  KERASQ_ENSURE(context->GetExecutionPlan(context, &plan) == kTfLiteOk,
                "the runtime does not tell its operators");
  KERASQ_RETURN_IF_ERROR(CheckIntArray("the execution plan", plan, 0, int64_t{1} << 31));
  const std::vector<int> indices(plan->data, plan->data + plan->size);
  for (int index : indices) {
    TfLiteNode* node = nullptr;
    TfLiteRegistration* registration = nullptr;
    KERASQ_ENSURE(
        context->GetNodeAndRegistration(context, index, &node, &registration) == kTfLiteOk,
        "the runtime does not tell its operator ", index);
    KERASQ_RETURN_IF_ERROR(CheckNode(context, node, registration));
    const char* name = registration->custom_name;
    const bool ours = name != nullptr && std::strncmp(name, kPrefix, sizeof(kPrefix) - 1) == 0;
    if (!ours || node->delegate != nullptr) continue;
    KERASQ_RETURN_IF_ERROR(CheckNodeTensors(context, node));
    Claim claim = {index, name, Label(context, *node, name)};
    const Status status = CheckClaim(*node, name, &claim.name);
    KERASQ_ENSURE(status.ok(), claim.label, ": ", status.message());
    claims->push_back(claim);
  }
  return Status::Ok();
}

// The operator of the only node that a delegate kernel of ours replaces.
Status MakeKernel(TfLiteContext* context, const TfLiteDelegateParams& params,
                  std::unique_ptr<Kernel>* kernel) {
  KERASQ_ENSURE(params.nodes_to_replace != nullptr && params.nodes_to_replace->size == 1,
                "the runtime merged operators");
  TfLiteNode* node = nullptr;
  TfLiteRegistration* registration = nullptr;
  KERASQ_ENSURE(context->GetNodeAndRegistration(context, params.nodes_to_replace->data[0], &node,
                                                &registration) == kTfLiteOk,
                "the runtime does not tell the operator to replace");
  const char* name = registration->custom_name;
  std::unique_ptr<ConvOp> op;
  KERASQ_RETURN_IF_ERROR(
      ConvOp::Create(name, node->custom_initial_data, node->custom_initial_data_size, &op));
  // Before NewKernel, which may move the nodes' tensors.
  const std::string label = Label(context, *node, name);
  KERASQ_RETURN_IF_ERROR(NewKernel(context, label, std::move(op), kernel));
  // The delegate node's own inputs are sorted: ours come in the order of the replaced node.
  (*kernel)->SetTensors(*node->inputs, *node->outputs);
  Profile* profile = static_cast<KerasqDelegate*>(params.delegate)->profile.get();
  if (profile != nullptr) {
    (*kernel)->SetCounter(profile->Counter(context, params.nodes_to_replace->data[0]));
  }
  return Status::Ok();
}

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  std::unique_ptr<Kernel> kernel;
  const auto* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  const TfLiteStatus status =
      Report(context, kLibrary, [&] { return MakeKernel(context, *params, &kernel); });
  return status == kTfLiteOk ? kernel.release() : nullptr;
}

TfLiteStatus PrepareDelegate(TfLiteContext* context, TfLiteDelegate* delegate) {
  // Not even the runtime's way to report can be trusted before.
  const TfLiteStatus layout =
      Guard([&] { return CheckContext(context); },
            [](const char* message) { std::fprintf(stderr, "kerasq: %s\n", message); });
  if (layout != kTfLiteOk) return layout;
  return Report(context, kLibrary, [&] {
    Profile* profile = static_cast<KerasqDelegate*>(delegate)->profile.get();
    if (profile != nullptr) profile->SeeGraph(context);
    std::vector<Claim> claims;
    KERASQ_RETURN_IF_ERROR(FindClaims(context, &claims));
    // One kernel per operator: the runtime then plans the memory between them, and profiles each.
    for (const Claim& claim : claims) {
      TfLiteRegistration registration = {};
      registration.init = Init;
      registration.free = FreeKernel;
      registration.prepare = PrepareKernel;
      registration.invoke = InvokeKernel;
      registration.profiling_string = ProfileKernel;
      registration.custom_name = claim.name;
      registration.version = 1;
      const std::unique_ptr<TfLiteIntArray, decltype(&std::free)> node(NewIntArray({claim.node}),
                                                                       std::free);
      KERASQ_ENSURE(context->ReplaceNodeSubsetsWithDelegateKernels(
                        context, registration, node.get(), delegate) == kTfLiteOk,
                    claim.label, ": the runtime did not accept the operator");
    }
    return Status::Ok();
  });
}

Status NewDelegate(const char* profile, TfLiteDelegate** made) {
  auto delegate = std::make_unique<KerasqDelegate>();
  delegate->Prepare = PrepareDelegate;
  // Without it the runtime prepares our operators before they are replaced, and fails.
  delegate->flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  if (profile != nullptr) {
    delegate->profile = NewProfile(profile);
    KERASQ_ENSURE(delegate->profile != nullptr, "kerasq: there is a profile '", profile,
                  "' already: choose another name");
  }
  *made = delegate.release();
  return Status::Ok();
}

}  // namespace
}  // namespace kerasq

extern "C" {

// The two functions that the runtime looks up. The only option is profile=NAME, for
// KerasqProfile_Read.
KERASQ_EXPORT TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values,
                                                            size_t num_options,
                                                            void (*report_error)(const char*)) {
  const char* profile = nullptr;
  for (size_t i = 0; i < num_options; ++i) {
    if (std::strcmp(keys[i], kerasq::kProfileOption) != 0) {
      char message[256];  // a string might throw
      std::snprintf(message, sizeof(message),
                    "kerasq: the delegate has no option '%s': pass 'profile' or none", keys[i]);
      if (report_error != nullptr) report_error(message);
      return nullptr;
    }
    profile = values[i];
  }
  TfLiteDelegate* delegate = nullptr;
  kerasq::Guard([&] { return kerasq::NewDelegate(profile, &delegate); },
                [&](const char* message) {
                  if (report_error != nullptr) report_error(message);
                });
  return delegate;
}

KERASQ_EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  delete static_cast<kerasq::KerasqDelegate*>(delegate);
}

}  // extern "C"
