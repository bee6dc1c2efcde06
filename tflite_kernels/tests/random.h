// Random numbers of a seed.
#ifndef KERASQ_TESTS_RANDOM_H_
#define KERASQ_TESTS_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace kerasq {

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  float Float() { return std::normal_distribution<float>()(engine_); }
  std::vector<float> Floats(size_t n) {
    std::vector<float> values(n);
    for (float& v : values) v = Float();
    return values;
  }
  std::vector<uint8_t> Bytes(size_t n) {
    std::vector<uint8_t> values(n);
    for (uint8_t& v : values) v = static_cast<uint8_t>(Int(0, 255));
    return values;
  }

 private:
  std::mt19937 engine_;
};

}  // namespace kerasq

#endif  // KERASQ_TESTS_RANDOM_H_
