// Small helpers that every path shares: broadcast reads, codes of inputs, activations, half floats.
#ifndef KERASQ_CORE_VALUES_H_
#define KERASQ_CORE_VALUES_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/operators.h"

namespace kerasq {

inline int CeilDiv(int a, int b) { return (a + b - 1) / b; }
inline int64_t CeilDiv64(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Element `i` of an array of one element a channel, or of one for all.
inline float Broadcast(const float* values, int size, int i) { return values[size == 1 ? 0 : i]; }

// NaN compares false with everything but itself: activations pass it on, as TensorFlow's do.
inline float Activate(Activation activation, float y) {
  if (activation == Activation::kNone) return y;
  if (y < 0.0f) return 0.0f;
  return activation == Activation::kRelu6 && y > 6.0f ? 6.0f : y;
}

// The level of an input value of channel `channel`: how many thresholds it reaches.
inline int InputCode(const BitplaneWeights& w, float x, int channel) {
  const int levels = w.num_thresholds;
  const float* thresholds = w.thresholds + (w.threshold_rows == 1 ? 0 : channel) * levels;
  const float directed = x * Broadcast(w.direction, w.direction_size, channel);
  int code = 0;
  for (int j = 0; j < levels; ++j) code += directed >= thresholds[j];
  return code;
}

inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ffu;
  float value;
  if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -value : value;
  }
  const uint32_t bits = sign | ((exponent == 31 ? 255u : exponent + 112u) << 23) | (mantissa << 13);
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Element `i` of a bit stream of `bits`-bit integers (at most 16), least significant bit first.
inline uint16_t StreamElement(const uint8_t* stream, int64_t i, int bits) {
  const uint8_t* byte = stream + (i * bits >> 3);
  const int shift = static_cast<int>(i * bits & 7);
  unsigned value = *byte >> shift;
  for (int read = 8 - shift; read < bits; read += 8) {
    value |= static_cast<unsigned>(*++byte) << read;
  }
  return static_cast<uint16_t>(value & ((1u << bits) - 1));
}

// Element `i` of an array of floats, or of IEEE halves.
inline float FloatOrHalf(const void* data, bool is_f16, int64_t i) {
  if (!is_f16) return static_cast<const float*>(data)[i];
  return HalfToFloat(static_cast<const uint16_t*>(data)[i]);
}

inline float CodewordElement(const CodebookWeights& w, int64_t i) {
  return FloatOrHalf(w.codeword_data, w.codewords_are_f16, i);
}

// Whether bit `i` of an output channel's row in plane `plane` is set.
inline bool PlaneBit(const BitplaneWeights& w, int64_t row_bytes, int64_t row, int64_t i) {
  return (w.planes[row * row_bytes + (i >> 3)] >> (i & 7)) & 1;
}

}  // namespace kerasq

#endif  // KERASQ_CORE_VALUES_H_
