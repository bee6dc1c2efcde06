// Recognises the runtime's structs before they are trusted: a runtime of another layout is refused
// with a message, where reading it blindly would crash.
#ifndef KERASQ_TFLITE_LAYOUT_CHECK_H_
#define KERASQ_TFLITE_LAYOUT_CHECK_H_

#include "tflite/status.h"
#include "tflite/tflite_c_api.h"

namespace kerasq {

// The functions and the array of tensors.
Status CheckContext(const TfLiteContext* context);

// What the runtime returned for one node. The context must have passed CheckContext.
Status CheckNode(const TfLiteContext* context, const TfLiteNode* node,
                 const TfLiteRegistration* registration);

// The tensors of a node of ours. The node must have passed CheckNode.
Status CheckNodeTensors(const TfLiteContext* context, const TfLiteNode* node);

// An array of the runtime whose elements lie within [low, high).
Status CheckIntArray(const char* what, const TfLiteIntArray* array, int64_t low, int64_t high);

}  // namespace kerasq

#endif  // KERASQ_TFLITE_LAYOUT_CHECK_H_
