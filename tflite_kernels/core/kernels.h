// The microkernels of one instruction set: flat functions, chosen once per operator.
#ifndef KERASQ_CORE_KERNELS_H_
#define KERASQ_CORE_KERNELS_H_

#include <cstdint>
#include <string>

namespace kerasq {

constexpr int kPanelChannels = 16;    // output channels of a weight panel
constexpr int kGemmRows = 6;          // output positions of a GEMM tile
constexpr int kLookUpChannels = 8;    // output channels whose indices lie together
constexpr int kMaxLookUpVectors = 8;  // of 8 output positions: the widest look-up tile
constexpr int kCountChannels = 32;    // output channels counted together
constexpr int kEntryLanes = 16;       // entries of an 8-bit table made together
constexpr int kNibbleChannels = 32;   // output channels whose indices of 4 bits lie together
constexpr int kNibbleRows = 4;        // output positions that share an index of 4 bits
constexpr int kMaxByteVectors = 8;    // of 16 output positions, kept in registers
constexpr int kMaxByteSums = 254;     // entries of 8 bits whose sum fits 16 bits, an even number

// What one call of look_up walks over. For each of `subspaces` sub-spaces, the table has a row of
// `row` floats for every codeword; tap t reads it from tap_offsets[t] on.
struct LookUpBlock {
  const float* table;
  int64_t row, subspace_pitch;
  int subspaces, taps;
  const int* tap_offsets;
  const uint8_t* indices;  // [subspaces][taps][8], for each block of 8 channels
  int64_t index_pitch;     // from one block of channels to the next
  int channel_blocks;
  float* sums;  // [channel_blocks * 8][vectors * 8]
  int vectors;  // 1 .. kMaxLookUpVectors
};

// A sum of products becomes an entry of an 8-bit table: sum / 2^shift, rounded and kept in 16 bits,
// times multiplier / 2^15, rounded and kept in 8 bits. Halves are rounded up.
struct EntryRounding {
  int shift, multiplier;  // 0 .. 24, 1 .. 32767
};

// What one call of look_up_bytes walks over: as LookUpBlock, of entries of 8 bits, channel by
// channel.
struct ByteLookUpBlock {
  const int8_t* table;
  int64_t row, subspace_pitch;
  int subspaces, taps;  // at most kMaxByteSums in all
  const int* tap_offsets;
  const uint8_t* indices;  // [subspaces][taps][8], for each block of 8 channels
  int64_t index_pitch;     // from one block of channels to the next
  int channels;
  int vectors;    // of 16 positions
  int16_t* sums;  // [channels][vectors * 16]
};

struct Kernels {
  const char* isa;

  // bits of n channels of a pixel: bit c of `bits` = (direction[c] x[c] >= thresholds[c]).
  // The unused bits of the last byte are 0.
  void (*pack_signs)(const float* x, const float* direction, const float* thresholds, int n,
                     uint8_t* bits);

  // sums[p][32 b + l] = n - 2 sum_{i < bytes} popcount(rows[p * pitch + i] ^ w[b][i][l])
  // for p < count, b < blocks, l < 32.
  void (*xor_popcount)(const uint8_t* rows, int count, int64_t pitch, const uint8_t* w,
                       int64_t bytes, int blocks, int n, int32_t* sums);

  // sums[p][l] += sum_{t,i} pixels[t * kGemmRows + p][i] * panel[(t * depth + i) * 16 + l]
  // for p < kGemmRows, l < 16.
  void (*gemm_6x16)(const float* const* pixels, const float* panel, int taps, int depth,
                    float* sums);

  // rows[j][l] = columns[j][low[l]], rows[j][8 + l] = columns[j][high[l]] for j < length, l < 8:
  // sub-vectors of a codebook of at most 16 codewords, whose element j is columns[j][codeword].
  void (*decode_codewords_x16)(const uint8_t* low, const uint8_t* high, const float* columns,
                               int length, float* rows);

  // panel[i][l] = offset[l] + sum_p (bit l of masks[p * mask_stride + i] ? scales : -scales)[p][l]
  // for i < n, l < 16.
  void (*decode_planes_x16)(const uint16_t* masks, int64_t mask_stride, int planes,
                            const float* scales, const float* offset, int n, float* panel);

  // sums[c] = sum_{t < taps} inputs[t][c / multiplier] * weights[t][c] for c < channels.
  void (*depthwise)(const float* const* inputs, const float* const* weights, int taps, int channels,
                    int multiplier, float* sums);

  // table[k * row + i] = sum_{j < length} codewords[k * subvector + j] * rows[j * row + i]
  // for k < size, i < row; row is a multiple of 8.
  void (*build_table)(const float* codewords, int size, int subvector, int length,
                      const float* rows, int64_t row, float* table);

  // sums[c][i] += sum_{m,t} table[m * subspace_pitch + index[c][m][t] * row + tap_offsets[t] + i]
  void (*look_up)(const LookUpBlock& block);

  // bit c of `bits` = (sums[c] >= thresholds[c]) for c < n, a multiple of 8.
  void (*pack_sums)(const int32_t* sums, const int32_t* thresholds, int n, uint8_t* bits);

  // codes[i] = x[i] * inverse_scale, rounded to the nearest integer (to even), kept in low .. high,
  // for i < n; high for NaN.
  void (*quantize)(const float* x, float inverse_scale, int low, int high, int n, int16_t* codes);

  // entries[l] = rounded sum_{j < pairs, b < 2} vectors[j * stride + 2 l + b] *
  // pair[j * pair_stride + b] for l < lanes, a multiple of 16; `pair` is aligned to 4 bytes.
  void (*build_entries)(const int16_t* vectors, int64_t stride, const int16_t* pair,
                        int64_t pair_stride, int pairs, int lanes, const EntryRounding& rounding,
                        int8_t* entries);

  // sums[p][l] += sum_{t,m} tables[t * kNibbleRows + p][16 m + index[t][m][l]] for p < kNibbleRows,
  // l < 32, m < 2 pairs. An index of 4 bits is the lower half of byte l of indices[t][m / 2] for
  // even m, the upper half for odd m.
  void (*look_up_nibbles)(const int8_t* const* tables, const uint8_t* indices, int taps, int pairs,
                          int32_t* sums);

  // sums[c][i] += sum_{m,t} table[m * subspace_pitch + index[c][m][t] * row + tap_offsets[t] + i]
  void (*look_up_bytes)(const ByteLookUpBlock& block);
};

// The best set for this machine, or the one named by KERASQ_ISA (scalar, avx2, neon).
const Kernels& SelectKernels();

// Why KERASQ_ISA cannot be followed: unknown, or not of this machine. Empty if it can.
std::string CheckIsa();

const Kernels& ScalarKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
#elif defined(__aarch64__)
const Kernels& NeonKernels();
#endif

}  // namespace kerasq

#endif  // KERASQ_CORE_KERNELS_H_
