// xxHash of 32 bits (Yann Collet's published algorithm): the hash that HashedNets are trained with.
#ifndef KERASQ_CORE_XXHASH32_H_
#define KERASQ_CORE_XXHASH32_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kerasq {

inline uint32_t RotateLeft(uint32_t value, int bits) {
  return value << bits | value >> (32 - bits);
}

inline uint32_t LittleEndianWord(const char* text) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(static_cast<uint8_t>(text[i])) << 8 * i;
  return word;
}

inline uint32_t Xxh32(std::string_view text, uint32_t seed) {
  constexpr uint32_t kPrimes[] = {0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1};
  const uint32_t length = static_cast<uint32_t>(text.size());
  uint32_t state = seed + kPrimes[4];
  if (text.size() >= 16) {
    uint32_t lanes[] = {seed + kPrimes[0] + kPrimes[1], seed + kPrimes[1], seed, seed - kPrimes[0]};
    for (; text.size() >= 16; text.remove_prefix(16)) {
      for (int i = 0; i < 4; ++i) {
        lanes[i] += LittleEndianWord(text.data() + 4 * i) * kPrimes[1];
        lanes[i] = RotateLeft(lanes[i], 13) * kPrimes[0];
      }
    }
    state = RotateLeft(lanes[0], 1) + RotateLeft(lanes[1], 7) + RotateLeft(lanes[2], 12) +
            RotateLeft(lanes[3], 18);
  }
  state += length;
  for (; text.size() >= 4; text.remove_prefix(4)) {
    state = RotateLeft(state + LittleEndianWord(text.data()) * kPrimes[2], 17) * kPrimes[3];
  }
  for (char byte : text) {
    state = RotateLeft(state + static_cast<uint8_t>(byte) * kPrimes[4], 11) * kPrimes[0];
  }
  state = (state ^ state >> 15) * kPrimes[1];
  state = (state ^ state >> 13) * kPrimes[2];
  return state ^ state >> 16;
}

}  // namespace kerasq

#endif  // KERASQ_CORE_XXHASH32_H_
