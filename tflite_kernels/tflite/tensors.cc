#include "tflite/tensors.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>

namespace kerasq {
namespace {

constexpr char kRemedy[] = ": the file is damaged or does not fit its input, convert it again";

std::string ExtentsText(const std::vector<Extent>& shape) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < shape.size(); ++i) {
    text << (i ? ", " : "") << shape[i].first;
    if (shape[i].second != shape[i].first) text << " or " << shape[i].second;
  }
  text << ']';
  return text.str();
}

bool HasShape(const TfLiteTensor& tensor, const std::vector<Extent>& shape) {
  if (tensor.dims == nullptr || tensor.dims->size != static_cast<int>(shape.size())) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t size = tensor.dims->data[i];
    if (size != shape[i].first && size != shape[i].second) return false;
  }
  return true;
}

}  // namespace

const char* TypeName(TfLiteType type) {
  switch (type) {
    case kTfLiteFloat32:
      return "float32";
    case kTfLiteInt32:
      return "int32";
    case kTfLiteUInt8:
      return "uint8";
    case kTfLiteInt64:
      return "int64";
    case kTfLiteInt8:
      return "int8";
    case kTfLiteFloat16:
      return "float16";
    default:
      return "another type";
  }
}

size_t TypeBytes(TfLiteType type) {
  switch (type) {
    case kTfLiteUInt8:
    case kTfLiteInt8:
      return 1;
    case kTfLiteFloat16:
      return 2;
    case kTfLiteFloat32:
    case kTfLiteInt32:
      return 4;
    case kTfLiteInt64:
      return 8;
    default:
      return 0;
  }
}

std::string ShapeText(const TfLiteTensor& tensor) {
  if (tensor.dims == nullptr) return "[unknown]";
  std::vector<Extent> shape;
  for (int i = 0; i < tensor.dims->size; ++i) shape.emplace_back(tensor.dims->data[i]);
  return ExtentsText(shape);
}

Status CountElements(const char* what, const TfLiteTensor& tensor, int64_t* count) {
  KERASQ_ENSURE(tensor.dims != nullptr, what, " has no shape");
  const int* begin = tensor.dims->data;
  const int* end = begin + tensor.dims->size;
  KERASQ_ENSURE(std::all_of(begin, end, [](int size) { return size >= 0; }), what, " has shape ",
                ShapeText(tensor), ": a dimension is negative");
  int64_t product = 1;  // without zeros: products of some dimensions must not overflow either
  for (const int* size = begin; size < end; ++size) {
    product *= std::max(*size, 1);
    KERASQ_ENSURE(product <= std::numeric_limits<int32_t>::max(), what, " has shape ",
                  ShapeText(tensor), ": more than 2^31 - 1 elements");
  }
  *count = std::find(begin, end, 0) == end ? product : 0;
  return Status::Ok();
}

Status CheckConstant(const char* what, const TfLiteTensor& tensor, TfLiteType type,
                     const std::vector<Extent>& shape) {
  KERASQ_ENSURE(tensor.allocation_type == kTfLiteMmapRo && tensor.data.data != nullptr, what,
                " must be a constant stored in the file");
  KERASQ_ENSURE(tensor.type == type, what, " has type ", TypeName(tensor.type), ", expected ",
                TypeName(type), kRemedy);
  KERASQ_ENSURE(HasShape(tensor, shape), what, " has shape ", ShapeText(tensor), ", expected ",
                ExtentsText(shape), kRemedy);
  int64_t count;
  KERASQ_RETURN_IF_ERROR(CountElements(what, tensor, &count));
  KERASQ_ENSURE(tensor.bytes == static_cast<size_t>(count) * TypeBytes(type), what, " stores ",
                tensor.bytes, " bytes, but its shape is ", ShapeText(tensor));
  KERASQ_ENSURE(reinterpret_cast<uintptr_t>(tensor.data.data) % TypeBytes(type) == 0, what,
                " is not aligned: keep the file's content at a multiple of 16 bytes");
  return Status::Ok();
}

TfLiteIntArray* NewIntArray(const std::vector<int>& values) {
  void* memory = std::malloc(sizeof(TfLiteIntArray) + values.size() * sizeof(int));
  if (memory == nullptr) throw std::bad_alloc();
  auto* array = static_cast<TfLiteIntArray*>(memory);
  array->size = static_cast<int>(values.size());
  std::copy(values.begin(), values.end(), array->data);
  return array;
}

}  // namespace kerasq
