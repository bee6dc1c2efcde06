#include "core/checks.h"

#include <algorithm>
#include <cmath>

#include "core/kernels.h"
#include "core/packed_codebook.h"
#include "core/values.h"

namespace kerasq {
namespace {

constexpr int64_t kMaxProduct = int64_t{1} << 30;
constexpr int kMaxByteSubvector = 512;  // a sum of 512 products of 255 and 128 is exact in float32
constexpr int kMaxEntryShift = 24;
constexpr int64_t kMaxSpan = int64_t{1} << 24;    // of a kernel, along one axis
constexpr int64_t kMaxPacked = int64_t{1} << 30;  // bytes of planes, or of indices, in memory
constexpr int64_t kMaxElements = kMaxPacked / 4;  // floats of codebooks

// The product of positive sizes, or kMaxProduct + 1 where it is larger than kMaxProduct.
int64_t Product(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    if (size > kMaxProduct / product) return kMaxProduct + 1;
    product *= size;
  }
  return product;
}

std::string CheckBasis(const ConvGeometry& g, const BitplaneWeights& w) {
  if (w.basis_rows != w.weight_planes && w.basis_rows != w.weight_planes + 1) {
    return "weight_basis has " + std::to_string(w.basis_rows) + " rows for " +
           std::to_string(w.weight_planes) + " planes: give one each, and one more for an offset";
  }
  if (w.basis_cols != 1 && w.basis_cols != g.out_c) {
    return "weight_basis must have 1 or " + std::to_string(g.out_c) + " columns, not " +
           std::to_string(w.basis_cols);
  }
  if (w.bias_size != 1 && w.bias_size != g.out_c) {
    return "bias must have 1 or " + std::to_string(g.out_c) + " elements, not " +
           std::to_string(w.bias_size);
  }
  const bool quantized = w.input_planes > 0;
  if (quantized && w.input_basis_size != w.input_planes &&
      w.input_basis_size != w.input_planes + 1) {
    return "input_basis must have one element a plane, and one more for an offset";
  }
  return "";
}

std::string CheckDirection(const float* direction, int size) {
  for (int i = 0; i < size; ++i) {
    if (direction[i] != 1.0f && direction[i] != -1.0f) return "a direction must be +1 or -1";
  }
  return "";
}

// Bits come and go by one plane without an offset: the sums are integers then.
std::string CheckBits(const ConvGeometry& g, const BitplaneWeights& w) {
  if (w.bits_in && (w.input_planes != 1)) {
    return "an input of bits has 1 plane, not " + std::to_string(w.input_planes);
  }
  if (w.output_thresholds == nullptr) return "";
  if (w.weight_planes != 1 || w.input_planes != 1) {
    return "an output of bits needs 1 plane of weights and 1 of inputs, not " +
           std::to_string(w.weight_planes) + " and " + std::to_string(w.input_planes);
  }
  if (w.activation != Activation::kNone) return "an output of bits has no activation";
  if ((w.output_thresholds_size != 1 && w.output_thresholds_size != g.out_c) ||
      (w.output_direction_size != 1 && w.output_direction_size != g.out_c)) {
    return "output_thresholds and output_direction must have 1 or " + std::to_string(g.out_c) +
           " elements";
  }
  for (int i = 0; i < w.output_direction_size; ++i) {
    if (w.output_direction[i] != 1 && w.output_direction[i] != -1) {
      return "an output_direction must be +1 or -1";
    }
  }
  return "";
}

// Output channels, those of a group rounded up to a multiple.
int64_t Lanes(const ConvGeometry& g, int multiple) {
  return static_cast<int64_t>(g.groups) * CeilDiv(g.group_out(), multiple) * multiple;
}

// In memory, outputs of a group are padded to 32, and inputs of a tap to 8 bits.
std::string CheckPackedPlanes(const ConvGeometry& g, int planes) {
  const int64_t row = static_cast<int64_t>(g.taps()) * CeilDiv(g.group_in(), 8);
  if (Lanes(g, kCountChannels) * planes <= kMaxPacked / row) return "";
  return "its planes take more than 1 GiB, with the outputs of a group rounded up to a multiple of "
         "32, and its inputs of 8: too many to pack into memory";
}

std::string CheckInputPlanes(const ConvGeometry& g, const BitplaneWeights& w) {
  const int levels = w.num_thresholds;
  if (levels < 1 || levels >= 1 << w.input_planes) {
    return std::to_string(w.input_planes) + " input planes have 1 to " +
           std::to_string((1 << w.input_planes) - 1) + " thresholds, not " + std::to_string(levels);
  }
  if ((w.threshold_rows != 1 && w.threshold_rows != g.in_c) ||
      (w.direction_size != 1 && w.direction_size != g.in_c)) {
    return "thresholds and direction must have 1 row or one for each of the " +
           std::to_string(g.in_c) + " input channels";
  }
  for (int64_t i = 0; i < static_cast<int64_t>(w.threshold_rows) * levels; ++i) {
    if (std::isnan(w.thresholds[i])) return "a threshold is not a number";
    if (i % levels > 0 && w.thresholds[i] < w.thresholds[i - 1]) {
      return "the thresholds of a channel must ascend";
    }
  }
  const std::string direction = CheckDirection(w.direction, w.direction_size);
  if (!direction.empty()) return direction;
  for (int i = 0; i <= levels; ++i) {
    if (w.level_bits[i] >> w.input_planes) return "level_bits name a plane that is not there";
  }
  return "";
}

}  // namespace

std::string CheckGeometry(const ConvGeometry& g) {
  if (g.in_c < 1 || g.out_c < 1 || g.kernel_h < 1 || g.kernel_w < 1 || g.stride_h < 1 ||
      g.stride_w < 1 || g.dilation_h < 1 || g.dilation_w < 1 || g.groups < 1) {
    return "channels, kernel, strides, dilations and groups must be at least 1";
  }
  if (g.pad_top < 0 || g.pad_left < 0) return "padding must not be negative";
  if (g.in_c % g.groups != 0 || g.out_c % g.groups != 0) {
    return std::to_string(g.groups) + " groups do not divide " + std::to_string(g.in_c) +
           " input and " + std::to_string(g.out_c) + " output channels";
  }
  // Counts of an output are kept in 32 bits, and so are positions in a kernel.
  if (Product({g.kernel_h, g.kernel_w, g.group_in()}) > kMaxProduct) {
    return "a kernel of more than 2^30 elements an output channel";
  }
  if (Product({g.kernel_h, g.dilation_h}) > kMaxSpan ||
      Product({g.kernel_w, g.dilation_w}) > kMaxSpan) {
    return "a kernel that spans more than 2^24 positions";
  }
  if (Product({g.kernel_h, g.kernel_w, g.group_in(), g.out_c}) > kMaxProduct) {
    return "more than 2^30 weights";
  }
  return "";
}

std::string CheckBitplane(const ConvGeometry& g, const BitplaneWeights& w) {
  if (w.weight_planes < 1 || w.weight_planes > kMaxWeightPlanes) {
    return "weight_planes must be 1 to 8, not " + std::to_string(w.weight_planes);
  }
  if (w.input_planes < 0 || w.input_planes > kMaxInputPlanes) {
    return "input_planes must be 0 to 8, not " + std::to_string(w.input_planes);
  }
  if (w.pad_value != 0 && w.pad_value != 1) {
    return "pad_value must be 0 or 1, not " + std::to_string(w.pad_value);
  }
  std::string wrong = CheckPackedPlanes(g, w.weight_planes);
  if (wrong.empty()) wrong = CheckBits(g, w);
  if (wrong.empty() && w.output_thresholds == nullptr) wrong = CheckBasis(g, w);
  if (!wrong.empty() || w.input_planes == 0) return wrong;
  return w.bits_in ? "" : CheckInputPlanes(g, w);
}

std::string CheckBitpack(const ConvGeometry& g, const BitpackWeights& w) {
  if ((w.thresholds_size != 1 && w.thresholds_size != g.in_c) ||
      (w.direction_size != 1 && w.direction_size != g.in_c)) {
    return "thresholds and direction must have 1 or " + std::to_string(g.in_c) + " elements";
  }
  for (int i = 0; i < w.thresholds_size; ++i) {
    if (std::isnan(w.thresholds[i])) return "a threshold is not a number";
  }
  return CheckDirection(w.direction, w.direction_size);
}

std::string CheckCodebook(const ConvGeometry& g, const CodebookWeights& w) {
  if (w.subvector < 1) {
    return "subvector must be at least 1, not " + std::to_string(w.subvector);
  }
  if (w.codewords < 1 || w.codewords > kMaxCodewords) {
    return "codewords must be 1 to 65536, not " + std::to_string(w.codewords);
  }
  if (w.bits < 1 || w.bits > 16 || w.codewords > 1 << w.bits || w.codewords <= (1 << w.bits) / 2) {
    if (w.codewords != 1 || w.bits != 1) {
      return std::to_string(w.bits) + " bits do not fit " + std::to_string(w.codewords) +
             " codewords";
    }
  }
  const int64_t length = int64_t{g.group_in()} * (w.by_channel ? g.taps() : 1);
  if (w.subspaces != CeilDiv64(length, w.subvector)) {
    return "the indices have " + std::to_string(w.subspaces) + " sub-spaces, the input " +
           std::to_string(CeilDiv64(length, w.subvector));
  }
  if (w.codebooks != 1 && w.codebooks != w.subspaces) {
    return "there must be 1 codebook or one a sub-space, not " + std::to_string(w.codebooks);
  }
  // In memory, a codebook has a column for 16 codewords at least, and outputs are padded to 8.
  if (Product({w.codebooks, std::max(w.codewords, 16), w.subvector}) > kMaxElements) {
    return "more than 2^28 elements in the codebooks";
  }
  const int64_t row = static_cast<int64_t>(w.by_channel ? 1 : g.taps()) * w.subspaces;
  if (Lanes(g, 8) > kMaxPacked / row) {
    return "more than 2^30 indices, with the outputs of a group rounded up to a multiple of 8";
  }
  return CheckOutput(g, w.multiplier_size, w.bias_size);
}

std::string CheckByteTables(const ConvGeometry& g, const CodebookWeights& w, const ByteTables& t) {
  if (w.by_channel || w.codewords > kMaxLookUpCodewords || w.subvector > kMaxByteSubvector) {
    return "tables of 8 bits are for sub-vectors by position of at most " +
           std::to_string(kMaxByteSubvector) + " elements, and at most " +
           std::to_string(kMaxLookUpCodewords) + " codewords";
  }
  if (!(t.inverse_scale > 0.0f) || !std::isfinite(t.inverse_scale)) {
    return "the input's scale must be a number above 0";
  }
  if (t.zero_point < -128 || t.zero_point > 127 || t.shift < 0 || t.shift > kMaxEntryShift ||
      t.multiplier < 1 || t.multiplier > 32767) {
    return "zero point, shift and multiplier must be -128 to 127, 0 to " +
           std::to_string(kMaxEntryShift) + " and 1 to 32767";
  }
  // Sums are kept in 32 bits.
  if (Product({g.kernel_h, g.kernel_w, w.subspaces}) > kMaxProduct >> 7) {
    return "more than 2^23 entries of 8 bits in a sum";
  }
  if (Product({w.codebooks, w.codewords + kEntryLanes, w.subvector + 1}) > kMaxProduct >> 2) {
    return "more than 2^28 elements in the codebooks";
  }
  return "";
}

std::string CheckOutput(const ConvGeometry& g, int multiplier_size, int bias_size) {
  if ((multiplier_size != 1 && multiplier_size != g.out_c) ||
      (bias_size != 1 && bias_size != g.out_c)) {
    return "multiplier and bias must have 1 or " + std::to_string(g.out_c) + " elements";
  }
  return "";
}

std::string PastCodebook(int index, int codewords) {
  return "an index is " + std::to_string(index) + ", past its codebook of " +
         std::to_string(codewords) + " codewords";
}

}  // namespace kerasq
