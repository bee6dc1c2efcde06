// The microkernels of one instruction set: flat functions, chosen once per operator.
#ifndef KERASQ_CORE_KERNELS_H_
#define KERASQ_CORE_KERNELS_H_

#include <cstdint>

namespace kerasq {

constexpr int kPanelChannels = 16;    // output channels of a weight panel
constexpr int kGemmRows = 6;          // output positions of a GEMM tile
constexpr int kLookupPositions = 64;  // output positions of a look-up tile
constexpr int kWordAlign = 4;         // rows of 64-bit words are multiples of this

struct Kernels {
  const char* isa;

  // bits of n channels of a pixel: bit c of `words` = (direction[c] x[c] >= thresholds[c]).
  // The unused bits of the last word are 0.
  void (*pack_signs)(const float* x, const float* direction, const float* thresholds, int n,
                     uint64_t* words);

  // differing[c] = sum_i popcount(a[i] ^ w[c][i]) for rows of `words` words, c < channels.
  // words is a multiple of kWordAlign.
  void (*xor_popcount)(const uint64_t* a, const uint64_t* w, int64_t words, int channels,
                       int32_t* differing);

  // sums[p][l] += sum_{t,i} pixels[t * kGemmRows + p][i] * panel[(t * depth + i) * 16 + l]
  // for p < kGemmRows, l < 16.
  void (*gemm_6x16)(const float* const* pixels, const float* panel, int taps, int depth,
                    float* sums);

  // panel[i][l] = offset[l] + sum_p (bit l of masks[p * mask_stride + i] ? scales : -scales)[p][l]
  // for i < n, l < 16.
  void (*decode_planes_x16)(const uint16_t* masks, int64_t mask_stride, int planes,
                            const float* scales, const float* offset, int n, float* panel);

  // table[k * stride + i] = sum_j codewords[k * length + j] * rows[j * stride + i]
  // for k < size, i < pixels; pixels is a multiple of 8.
  void (*build_table)(const float* codewords, int size, int length, const float* rows,
                      int64_t stride, int64_t pixels, float* table);

  // sums[c * sums_stride + i] += sum_t taps[t][indices[c * num_taps + t] * stride + i]
  // for c < channels, i < kLookupPositions.
  void (*look_up_x64)(const float* const* taps, int num_taps, int64_t stride,
                      const uint8_t* indices, int channels, float* sums, int64_t sums_stride);
};

// The best set for this machine, or the one named by KERASQ_ISA (scalar, avx2, neon) where the
// machine has it.
const Kernels& SelectKernels();

const Kernels& ScalarKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
#elif defined(__aarch64__)
const Kernels& NeonKernels();
#endif

}  // namespace kerasq

#endif  // KERASQ_CORE_KERNELS_H_
