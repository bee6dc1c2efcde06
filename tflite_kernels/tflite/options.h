// The options that the converter stores with a custom operator: a FlexBuffer map of integers.
#ifndef KERASQ_TFLITE_OPTIONS_H_
#define KERASQ_TFLITE_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "tflite/status.h"

namespace kerasq {

class Options {
 public:
  // Read `size` untrusted bytes. Nothing outside of them is ever touched.
  static Status Parse(const void* bytes, size_t size, Options* options);

  // Fetch an integer that must be there and lie within [low, high].
  Status Get(const char* key, int low, int high, int* value) const;
  // The same for an option that files from before it lack: it is `absent` there.
  Status GetOr(const char* key, int absent, int low, int high, int* value) const;
  bool Has(const char* key) const { return values_.count(key) != 0; }

 private:
  std::map<std::string, int64_t> values_;
};

}  // namespace kerasq

#endif  // KERASQ_TFLITE_OPTIONS_H_
