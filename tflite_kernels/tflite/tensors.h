// Checks of the runtime's tensors: type, shape, and bytes, without overflow.
#ifndef KERASQ_TFLITE_TENSORS_H_
#define KERASQ_TFLITE_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tflite/status.h"
#include "tflite/tflite_c_api.h"

namespace kerasq {

// A dimension that a constant may have: one size, or either of two.
struct Extent {
  Extent(int64_t size) : first(size), second(size) {}  // NOLINT: shapes read as {4, 1, 9}
  Extent(int64_t a, int64_t b) : first(a), second(b) {}
  int64_t first, second;
};

const char* TypeName(TfLiteType type);
// Bytes of an element, or 0 for a type the operators do not know.
size_t TypeBytes(TfLiteType type);
std::string ShapeText(const TfLiteTensor& tensor);

// The product of the dimensions: an error if one is negative, or if the product of those that are
// not 0 exceeds 2^31 - 1, so that the kernels can index with int.
Status CountElements(const char* what, const TfLiteTensor& tensor, int64_t* count);

// Whether the tensor is stored in the file with this type and shape.
Status CheckConstant(const char* what, const TfLiteTensor& tensor, TfLiteType type,
                     const std::vector<Extent>& shape);

inline int Dimension(const TfLiteTensor& tensor, int axis) { return tensor.dims->data[axis]; }

// An array that the runtime may free.
TfLiteIntArray* NewIntArray(const std::vector<int>& values);

}  // namespace kerasq

#endif  // KERASQ_TFLITE_TENSORS_H_
