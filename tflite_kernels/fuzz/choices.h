// The bytes that a fuzzer mutates, read as choices.
#ifndef KERASQ_FUZZ_CHOICES_H_
#define KERASQ_FUZZ_CHOICES_H_

#include <cstddef>
#include <cstdint>

namespace kerasq {

// After the last byte, every choice is the first.
class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

  uint8_t Byte() { return data_ < end_ ? *data_++ : 0; }
  // Of 0 .. count - 1, count at most 65536.
  int Below(int count) {
    const int low = Byte();
    return (count > 256 ? low + 256 * Byte() : low) % count;
  }
  template <typename T, size_t kCount>
  T Of(const T (&values)[kCount]) {
    return values[Below(kCount)];
  }

 private:
  const uint8_t* data_;
  const uint8_t* const end_;
};

}  // namespace kerasq

#endif  // KERASQ_FUZZ_CHOICES_H_
