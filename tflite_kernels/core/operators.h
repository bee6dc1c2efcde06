// The operators of kerasq, free of any runtime: geometry, views of the packed weights, factories.
#ifndef KERASQ_CORE_OPERATORS_H_
#define KERASQ_CORE_OPERATORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/huffman.h"
#include "core/thread_pool.h"

namespace kerasq {

enum class Activation { kNone = 0, kRelu = 1, kRelu6 = 2 };

// NHWC convolution. A dense layer is a 1x1 convolution of `batch` images of one pixel.
struct ConvGeometry {
  int batch, in_h, in_w, in_c;
  int out_h, out_w, out_c;
  int kernel_h, kernel_w;
  int stride_h, stride_w;
  int dilation_h, dilation_w;
  int pad_top, pad_left;
  int groups;

  int taps() const { return kernel_h * kernel_w; }
  int group_in() const { return in_c / groups; }
  int group_out() const { return out_c / groups; }
};

// Bits between operators: a pixel is words of 32 channels, the lowest bit first; unused bits are 0.
constexpr int kWordChannels = 32;
inline int BitWords(int channels) { return (channels + kWordChannels - 1) / kWordChannels; }

// y = act(conv(a, sum_i u_i b_i + u_off) + bias), where a = x without input planes, and
// a = sum_j v_j h_j(code) + v_off, code = #{j : direction x >= thresholds[j]} with them.
// With bits_in the input is h, the bits of its only plane. With output_thresholds the output is
// bits: 1 where output_direction conv(h, b) >= output_thresholds; there is one plane of each.
// Pointers stay valid while the operator lives.
struct BitplaneWeights {
  int weight_planes, input_planes, pad_value;
  Activation activation;
  const uint8_t* planes;  // [weight_planes][out_c][ceil(taps * group_in / 8)], bit 1 is +1
  const float* basis;  // [basis_rows][basis_cols]: scales, then the offset if there is a row left
  int basis_rows, basis_cols;
  const float* bias;  // [bias_size]
  int bias_size;
  const float* thresholds;  // [threshold_rows][num_thresholds]
  int threshold_rows, num_thresholds;
  const float* direction;  // [direction_size], each +1 or -1
  int direction_size;
  const uint8_t* level_bits;  // [num_thresholds + 1]
  const float* input_basis;   // scales, then the offset if one is left
  int input_basis_size;
  bool bits_in;
  const int32_t* output_thresholds;  // [output_thresholds_size]
  int output_thresholds_size;
  const int8_t* output_direction;  // [output_direction_size], each +1 or -1
  int output_direction_size;
};

// Floats to bits: bit c = (direction[c] x[c] >= thresholds[c]).
struct BitpackWeights {
  const float* thresholds;
  int thresholds_size;
  const float* direction;  // each +1 or -1
  int direction_size;
};

// Bits to bits: the largest of a window, the smallest of the channels whose bit of `minimum` is 1.
struct BitMaxPoolWeights {
  const int32_t* minimum;  // [BitWords(in_c)]
};

// y = act(multiplier conv(x, W) + bias), W[p, m d + j, c] = codewords[m or 0][index[p, m, c]][j];
// by channel W[r % taps, r / taps, c] = codewords[m or 0][index[m, c]][j], where r = m d + j.
struct CodebookWeights {
  bool by_channel;
  int subvector, codewords, bits;
  int codebooks;  // subspaces, or 1 shared by all
  int subspaces;
  Activation activation;
  const void* codeword_data;  // float or IEEE half (int8 with ByteTables),
                              // [codebooks][codewords][subvector]
  bool codewords_are_f16;
  const uint8_t* indices;  // [taps or 1][subspaces][ceil(out_c * bits / 8)]
  const float* multiplier;
  int multiplier_size;
  const float* bias;
  int bias_size;
};

// Look-up tables of 8 bits, for codewords of int8 by position: codes a = round(x inverse_scale),
// kept in -128 - zero_point .. 127 - zero_point, table[m][k] = codeword[m][k] . a[m], rounded by
// shift and multiplier as EntryRounding tells; y = act(multiplier sum_{p,m} table[m][index[p, m,
// c]] + bias).
struct ByteTables {
  float inverse_scale;
  int zero_point;
  int shift, multiplier;
};

// y = act(multiplier conv(x, W) + bias). W in the order output, input channel of the group, row,
// column is zero but where an entry lies: entry e comes gap[e] weights after the one before, and
// is codewords[code[e]].
struct SparseWeights {
  Activation activation;
  const void* codeword_data;  // float or IEEE half, [code.alphabet], the first 0
  bool codewords_are_f16;
  int64_t entries;
  HuffmanCode gap_code, code;
  HuffmanStream gaps, codes;
  const float* multiplier;
  int multiplier_size;
  const float* bias;
  int bias_size;
};

// y = act(multiplier W x + bias): W is HashedWeight.
struct HashedWeights {
  Activation activation;
  int seed;
  const void* value_data;  // float or IEEE half, [buckets]
  bool values_are_f16;
  int buckets;
  const float* multiplier;
  int multiplier_size;
  const float* bias;
  int bias_size;
};

// values[h("<output>_<input>idxW") mod buckets], and minus it where h("<output>_<input>xiW") is
// even; h is xxHash of 32 bits.
float HashedWeight(const HashedWeights& weights, int input, int output);

// A convolution with packed weights. Run may be called by several threads at once, each with
// scratch of its own.
class ConvOperator {
 public:
  virtual ~ConvOperator() = default;
  // Bytes of scratch (aligned to 64) that Run needs for this geometry.
  virtual size_t ScratchBytes(const ConvGeometry& geometry, int num_threads) const = 0;
  // Input and output are floats, or int32 words of bits.
  virtual void Run(const ConvGeometry& geometry, const void* input, void* output, void* scratch,
                   ThreadPool* pool) const = 0;
  // The path that Run takes for this geometry, such as "bitplane_avx2".
  virtual const char* kernel_name(const ConvGeometry& geometry) const = 0;
};

// Check the values, and pack the weights for this machine. Sizes of the arrays are the caller's
// responsibility; batch and map sizes of `geometry` are ignored.
// Return null and say why in `error` where a value makes no sense.
std::unique_ptr<ConvOperator> MakeBitplaneConv(const ConvGeometry& geometry,
                                               const BitplaneWeights& weights, std::string* error);
// A geometry of 1x1 with a group for each channel.
std::unique_ptr<ConvOperator> MakeBitpack(const ConvGeometry& geometry,
                                          const BitpackWeights& weights, std::string* error);
// A geometry whose kernel is the window, with a group for each channel.
std::unique_ptr<ConvOperator> MakeBitMaxPool(const ConvGeometry& geometry,
                                             const BitMaxPoolWeights& weights, std::string* error);
std::unique_ptr<ConvOperator> MakeCodebookConv(const ConvGeometry& geometry,
                                               const CodebookWeights& weights, std::string* error);
std::unique_ptr<ConvOperator> MakeByteTableConv(const ConvGeometry& geometry,
                                                const CodebookWeights& weights,
                                                const ByteTables& tables, std::string* error);
std::unique_ptr<ConvOperator> MakeSparseConv(const ConvGeometry& geometry,
                                             const SparseWeights& weights, std::string* error);
std::unique_ptr<ConvOperator> MakeHashedConv(const ConvGeometry& geometry,
                                             const HashedWeights& weights, std::string* error);

}  // namespace kerasq

#endif  // KERASQ_CORE_OPERATORS_H_
