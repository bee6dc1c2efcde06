// The C structs through which a TFLite runtime (TensorFlow 2.18 and later, LiteRT 2) talks to a
// delegate. The runtime's wheels ship no headers, so these are our own declarations of the same
// binary layout; build with KERASQ_TFLITE_INCLUDE_DIR to use the official ones instead.
#ifndef KERASQ_TFLITE_TFLITE_C_API_H_
#define KERASQ_TFLITE_TFLITE_C_API_H_

#include <cstddef>
#include <cstdint>

#ifdef KERASQ_OFFICIAL_TFLITE_HEADERS

#if __has_include("tflite/core/c/common.h")
#include "tflite/core/c/common.h"
#else
#include "tensorflow/lite/core/c/common.h"
#endif

#else

extern "C" {

struct TfLiteContext;
struct TfLiteDelegate;

// Enums of int: a runtime may hold values that are not listed here.
enum TfLiteStatus : int { kTfLiteOk = 0, kTfLiteError = 1 };

// The element types that the operators or the layout check know.
enum TfLiteType : int {
  kTfLiteNoType = 0,
  kTfLiteFloat32 = 1,
  kTfLiteInt32 = 2,
  kTfLiteUInt8 = 3,
  kTfLiteInt64 = 4,
  kTfLiteInt8 = 9,
  kTfLiteFloat16 = 10,
};

enum TfLiteAllocationType : int {
  kTfLiteMemNone = 0,
  kTfLiteMmapRo = 1,
  kTfLiteArenaRw = 2,
};

enum TfLiteDelegateFlags {
  kTfLiteDelegateFlagsNone = 0,
  kTfLiteDelegateFlagsAllowDynamicTensors = 1,
};

struct TfLiteIntArray {
  int size;
  int data[];
};

struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
};

struct TfLiteQuantization {
  int type;
  void* params;
};

union TfLitePtrUnion {
  float* f;
  uint8_t* uint8;
  void* data;
};

struct TfLiteTensor {
  TfLiteType type;
  TfLitePtrUnion data;
  TfLiteIntArray* dims;
  TfLiteQuantizationParams params;
  TfLiteAllocationType allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  TfLiteDelegate* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  TfLiteQuantization quantization;
  void* sparsity;
  const TfLiteIntArray* dims_signature;
};

struct TfLiteNode {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  TfLiteIntArray* intermediates;
  TfLiteIntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  TfLiteDelegate* delegate;
  bool might_have_side_effect;
};

struct TfLiteRegistration {
  void* (*init)(TfLiteContext* context, const char* buffer, size_t length);
  void (*free)(TfLiteContext* context, void* buffer);
  TfLiteStatus (*prepare)(TfLiteContext* context, TfLiteNode* node);
  TfLiteStatus (*invoke)(TfLiteContext* context, TfLiteNode* node);
  const char* (*profiling_string)(const TfLiteContext* context, const TfLiteNode* node);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* (*async_kernel)(TfLiteContext* context, TfLiteNode* node);
  uint64_t inplace_operator;
};

struct TfLiteDelegateParams {
  TfLiteDelegate* delegate;
  TfLiteIntArray* nodes_to_replace;
  TfLiteIntArray* input_tensors;
  TfLiteIntArray* output_tensors;
};

// The beginning of the runtime's struct: the delegate never makes one, and needs no more of it.
struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext* context, TfLiteIntArray** execution_plan);
  TfLiteTensor* tensors;
  void* impl_;
  // Takes ownership of `new_size`.
  TfLiteStatus (*ResizeTensor)(TfLiteContext* context, TfLiteTensor* tensor,
                               TfLiteIntArray* new_size);
  void (*ReportError)(TfLiteContext* context, const char* format, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext* context, int tensors_to_add,
                             int* first_new_tensor_index);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext* context, int node_index, TfLiteNode** node,
                                         TfLiteRegistration** registration);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext* context,
                                                        TfLiteRegistration registration,
                                                        const TfLiteIntArray* nodes_to_replace,
                                                        TfLiteDelegate* delegate);
  int recommended_num_threads;
};

struct TfLiteDelegate {
  void* data_;
  TfLiteStatus (*Prepare)(TfLiteContext* context, TfLiteDelegate* delegate);
  TfLiteStatus (*CopyFromBufferHandle)(TfLiteContext* context, TfLiteDelegate* delegate, int handle,
                                       TfLiteTensor* tensor);
  TfLiteStatus (*CopyToBufferHandle)(TfLiteContext* context, TfLiteDelegate* delegate, int handle,
                                     TfLiteTensor* tensor);
  void (*FreeBufferHandle)(TfLiteContext* context, TfLiteDelegate* delegate, int* handle);
  int64_t flags;
  void* opaque_delegate_builder;
};

}  // extern "C"

#endif  // KERASQ_OFFICIAL_TFLITE_HEADERS

// The layout of 64-bit runtimes, whichever declarations are in use.
#if INTPTR_MAX == INT64_MAX

static_assert(offsetof(TfLiteTensor, data) == 8, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, dims) == 16, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, params) == 24, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, allocation_type) == 32, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, bytes) == 40, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, name) == 56, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, delegate) == 64, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, buffer_handle) == 72, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, is_variable) == 77, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, quantization) == 80, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, dims_signature) == 104, "TfLiteTensor");
static_assert(sizeof(TfLiteTensor) == 112, "TfLiteTensor");

static_assert(offsetof(TfLiteNode, outputs) == 8, "TfLiteNode");
static_assert(offsetof(TfLiteNode, temporaries) == 24, "TfLiteNode");
static_assert(offsetof(TfLiteNode, user_data) == 32, "TfLiteNode");
static_assert(offsetof(TfLiteNode, custom_initial_data) == 48, "TfLiteNode");
static_assert(offsetof(TfLiteNode, custom_initial_data_size) == 56, "TfLiteNode");
static_assert(offsetof(TfLiteNode, delegate) == 64, "TfLiteNode");

static_assert(offsetof(TfLiteRegistration, prepare) == 16, "TfLiteRegistration");
static_assert(offsetof(TfLiteRegistration, builtin_code) == 40, "TfLiteRegistration");
static_assert(offsetof(TfLiteRegistration, custom_name) == 48, "TfLiteRegistration");
static_assert(offsetof(TfLiteRegistration, version) == 56, "TfLiteRegistration");
static_assert(sizeof(TfLiteRegistration) == 88, "TfLiteRegistration");

static_assert(offsetof(TfLiteDelegateParams, nodes_to_replace) == 8, "TfLiteDelegateParams");

static_assert(offsetof(TfLiteContext, GetExecutionPlan) == 8, "TfLiteContext");
static_assert(offsetof(TfLiteContext, tensors) == 16, "TfLiteContext");
static_assert(offsetof(TfLiteContext, ResizeTensor) == 32, "TfLiteContext");
static_assert(offsetof(TfLiteContext, ReportError) == 40, "TfLiteContext");
static_assert(offsetof(TfLiteContext, AddTensors) == 48, "TfLiteContext");
static_assert(offsetof(TfLiteContext, GetNodeAndRegistration) == 56, "TfLiteContext");
static_assert(offsetof(TfLiteContext, ReplaceNodeSubsetsWithDelegateKernels) == 64,
              "TfLiteContext");
static_assert(offsetof(TfLiteContext, recommended_num_threads) == 72, "TfLiteContext");

static_assert(offsetof(TfLiteDelegate, Prepare) == 8, "TfLiteDelegate");
static_assert(offsetof(TfLiteDelegate, flags) == 40, "TfLiteDelegate");
static_assert(sizeof(TfLiteDelegate) == 56, "TfLiteDelegate");

#endif  // INTPTR_MAX == INT64_MAX

#endif  // KERASQ_TFLITE_TFLITE_C_API_H_
