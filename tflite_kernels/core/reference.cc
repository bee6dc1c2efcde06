#include "core/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/output_transform.h"
#include "core/values.h"

namespace kerasq {
namespace {

// Call visit(tap, y, x, inside) for the taps of output position (oy, ox).
template <typename Visit>
void ForTaps(const ConvGeometry& g, int oy, int ox, Visit visit) {
  for (int ky = 0; ky < g.kernel_h; ++ky) {
    for (int kx = 0; kx < g.kernel_w; ++kx) {
      const int y = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
      const int x = ox * g.stride_w - g.pad_left + kx * g.dilation_w;
      visit(ky * g.kernel_w + kx, y, x, y >= 0 && y < g.in_h && x >= 0 && x < g.in_w);
    }
  }
}

// Call visit(input of the image, oy, ox, channel, output) for every output element.
template <typename Visit>
void ForOutputs(const ConvGeometry& g, const float* input, float* output, Visit visit) {
  for (int n = 0; n < g.batch; ++n) {
    const float* image = input + static_cast<int64_t>(n) * g.in_h * g.in_w * g.in_c;
    for (int oy = 0; oy < g.out_h; ++oy) {
      for (int ox = 0; ox < g.out_w; ++ox) {
        for (int c = 0; c < g.out_c; ++c) *output++ = visit(image, oy, ox, c);
      }
    }
  }
}

// The value the convolution sees for input x: itself, or its quantized value.
float InputValue(const BitplaneWeights& w, float x, int channel) {
  if (w.input_planes == 0) return x;
  const int code = InputCode(w, x, channel);
  float value = 0.0f;
  for (int j = 0; j < w.input_planes; ++j) {
    value += (w.level_bits[code] >> j & 1) ? w.input_basis[j] : -w.input_basis[j];
  }
  return w.input_basis_size > w.input_planes ? value + w.input_basis[w.input_planes] : value;
}

float WeightValue(const BitplaneWeights& w, const ConvGeometry& g, int c, int64_t i) {
  const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8);
  const int column = w.basis_cols == 1 ? 0 : c;
  float value = 0.0f;
  for (int plane = 0; plane < w.weight_planes; ++plane) {
    const float scale = w.basis[plane * w.basis_cols + column];
    const int64_t row = static_cast<int64_t>(plane) * g.out_c + c;
    value += PlaneBit(w, row_bytes, row, i) ? scale : -scale;
  }
  if (w.basis_rows > w.weight_planes) value += w.basis[w.weight_planes * w.basis_cols + column];
  return value;
}

bool Bit(const int32_t* words, int i) {
  return static_cast<uint32_t>(words[i / kWordChannels]) >> i % kWordChannels & 1;
}

// Bits of pixels as -1 and +1, and back: bit(pixel, channel).
std::vector<float> Signs(const int32_t* words, int64_t pixels, int channels) {
  std::vector<float> signs;
  for (int64_t p = 0; p < pixels; ++p, words += BitWords(channels)) {
    for (int c = 0; c < channels; ++c) signs.push_back(Bit(words, c) ? 1.0f : -1.0f);
  }
  return signs;
}

template <typename BitOf>
void WriteBits(int64_t pixels, int channels, int32_t* words, BitOf bit) {
  for (int64_t p = 0; p < pixels; ++p, words += BitWords(channels)) {
    std::vector<uint32_t> pixel(BitWords(channels));
    for (int c = 0; c < channels; ++c) {
      pixel[c / kWordChannels] |= static_cast<uint32_t>(bit(p, c)) << c % kWordChannels;
    }
    std::copy(pixel.begin(), pixel.end(), words);
  }
}

// Padded with zeros; weight(tap, input channel of the group, output channel).
template <typename Weight>
void ReferenceConv(const ConvGeometry& g, const OutputTransform& transform, const float* input,
                   float* output, Weight weight) {
  const int depth = g.group_in();
  ForOutputs(g, input, output, [&](const float* image, int oy, int ox, int c) {
    const int first = c / g.group_out() * depth;
    double sum = 0.0;
    ForTaps(g, oy, ox, [&](int tap, int y, int x, bool inside) {
      const float* pixel = image + (static_cast<int64_t>(y) * g.in_w + x) * g.in_c + first;
      for (int i = 0; inside && i < depth; ++i) {
        sum += static_cast<double>(pixel[i]) * weight(tap, i, c);
      }
    });
    return transform.Apply(static_cast<float>(sum), c);
  });
}

// The symbols of a valid stream, bit by bit.
std::vector<int> ReferenceHuffman(const HuffmanCode& code, const HuffmanStream& stream,
                                  int64_t count) {
  std::vector<int> symbols;
  for (int64_t at = 0; static_cast<int64_t>(symbols.size()) < count;) {
    int offset = 0, found = -1;  // of the bits so far past the first code of their length
    for (int length = 1; found < 0; ++length, ++at) {
      offset = 2 * offset + (stream.bytes[at / 8] >> at % 8 & 1);
      for (int symbol = 0; symbol < code.alphabet && found < 0; ++symbol) {
        if (code.length(symbol) == length && offset-- == 0) found = symbol;
      }
    }
    symbols.push_back(found);
  }
  return symbols;
}

}  // namespace

void ReferenceBitplaneConv(const ConvGeometry& g, const BitplaneWeights& w, const float* input,
                           float* output) {
  const int depth = g.group_in();
  ForOutputs(g, input, output, [&](const float* image, int oy, int ox, int c) {
    const int first = c / g.group_out() * depth;
    double sum = 0.0;
    ForTaps(g, oy, ox, [&](int tap, int y, int x, bool inside) {
      if (!inside && w.pad_value == 0) return;
      for (int i = 0; i < depth; ++i) {
        const int channel = first + i;
        const float value =
            inside ? image[(static_cast<int64_t>(y) * g.in_w + x) * g.in_c + channel] : 1.0f;
        sum += static_cast<double>(InputValue(w, value, channel)) *
               WeightValue(w, g, c, static_cast<int64_t>(tap) * depth + i);
      }
    });
    return Activate(w.activation, static_cast<float>(sum) + Broadcast(w.bias, w.bias_size, c));
  });
}

void ReferenceBitConv(const ConvGeometry& g, const BitplaneWeights& w, const void* input,
                      void* output) {
  const float zero = 0.0f, one = 1.0f;
  const uint8_t levels[] = {0, 1};
  const int64_t pixels = int64_t{g.batch} * g.out_h * g.out_w;
  BitplaneWeights floats = w;
  std::vector<float> signs;
  if (w.bits_in) {
    signs = Signs(static_cast<const int32_t*>(input), int64_t{g.batch} * g.in_h * g.in_w, g.in_c);
    input = signs.data();
    floats.thresholds = &zero;
    floats.direction = &one;
    floats.level_bits = levels;
    floats.threshold_rows = floats.num_thresholds = floats.direction_size = 1;
  }
  if (w.output_thresholds == nullptr) {
    ReferenceBitplaneConv(g, floats, static_cast<const float*>(input), static_cast<float*>(output));
    return;
  }
  floats.basis = floats.input_basis = &one;
  floats.bias = &zero;
  floats.basis_rows = floats.basis_cols = floats.bias_size = floats.input_basis_size = 1;
  std::vector<float> sums(pixels * g.out_c);
  ReferenceBitplaneConv(g, floats, static_cast<const float*>(input), sums.data());
  WriteBits(pixels, g.out_c, static_cast<int32_t*>(output), [&](int64_t p, int c) {
    const int direction = w.output_direction[w.output_direction_size == 1 ? 0 : c];
    const int threshold = w.output_thresholds[w.output_thresholds_size == 1 ? 0 : c];
    return direction * static_cast<int>(sums[p * g.out_c + c]) >= threshold;
  });
}

void ReferenceBitpack(const ConvGeometry& g, const BitpackWeights& w, const float* input,
                      int32_t* output) {
  WriteBits(int64_t{g.batch} * g.in_h * g.in_w, g.in_c, output, [&](int64_t p, int c) {
    return input[p * g.in_c + c] * Broadcast(w.direction, w.direction_size, c) >=
           Broadcast(w.thresholds, w.thresholds_size, c);
  });
}

void ReferenceBitMaxPool(const ConvGeometry& g, const BitMaxPoolWeights& w, const int32_t* input,
                         int32_t* output) {
  const int64_t words = BitWords(g.in_c);
  WriteBits(int64_t{g.batch} * g.out_h * g.out_w, g.in_c, output, [&](int64_t p, int c) {
    const bool minimum = Bit(w.minimum, c);
    const int64_t image = p / (int64_t{g.out_h} * g.out_w) * g.in_h * g.in_w;
    bool result = minimum;
    ForTaps(g, static_cast<int>(p / g.out_w % g.out_h), static_cast<int>(p % g.out_w),
            [&](int, int y, int x, bool inside) {
              if (!inside) return;
              const bool bit = Bit(input + (image + int64_t{y} * g.in_w + x) * words, c);
              result = minimum ? result && bit : result || bit;
            });
    return result;
  });
}

void ReferenceCodebookConv(const ConvGeometry& g, const CodebookWeights& w, const float* input,
                           float* output) {
  const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
  ReferenceConv(g, TransformOf(w), input, output, [&](int tap, int i, int c) {
    const int position = w.by_channel ? 0 : tap;
    const int r = w.by_channel ? i * g.taps() + tap : i;
    const int m = r / w.subvector;
    const uint8_t* row = w.indices + (int64_t{position} * w.subspaces + m) * row_bytes;
    const int64_t codeword = static_cast<int64_t>(w.codebooks == 1 ? 0 : m) * w.codewords +
                             StreamElement(row, c, w.bits);
    return CodewordElement(w, codeword * w.subvector + r % w.subvector);
  });
}

void ReferenceSparseConv(const ConvGeometry& g, const SparseWeights& w, const float* input,
                         float* output) {
  const std::vector<int> gaps = ReferenceHuffman(w.gap_code, w.gaps, w.entries);
  const std::vector<int> codes = ReferenceHuffman(w.code, w.codes, w.entries);
  CodebookWeights book = {};
  book.codeword_data = w.codeword_data;
  book.codewords_are_f16 = w.codewords_are_f16;
  std::vector<float> flat(static_cast<size_t>(g.taps()) * g.group_in() * g.out_c);
  int64_t position = -1;
  for (size_t e = 0; e < gaps.size(); ++e) {
    position += gaps[e] + 1;
    flat[position] = CodewordElement(book, codes[e]);
  }
  ReferenceConv(g, TransformOf(w), input, output, [&](int tap, int i, int c) {
    return flat[(static_cast<int64_t>(c) * g.group_in() + i) * g.taps() + tap];
  });
}

void ReferenceHashedConv(const ConvGeometry& g, const HashedWeights& w, const float* input,
                         float* output) {
  ReferenceConv(g, TransformOf(w), input, output,
                [&](int, int i, int c) { return HashedWeight(w, i, c); });
}

void ReferenceByteTableConv(const ConvGeometry& g, const CodebookWeights& w, const ByteTables& t,
                            const float* input, float* output) {
  const auto* codewords = static_cast<const int8_t*>(w.codeword_data);
  const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
  const OutputTransform transform = TransformOf(w);
  const auto entry = [&](const float* channels, int m, int k) {
    double sum = 0.0;
    for (int j = 0; j < std::min(w.subvector, g.group_in() - m * w.subvector); ++j) {
      const int64_t codebook = w.codebooks == 1 ? 0 : m;
      sum += codewords[(codebook * w.codewords + k) * w.subvector + j] *
             std::clamp<double>(std::nearbyint(channels[m * w.subvector + j] * t.inverse_scale),
                                -128 - t.zero_point, 127 - t.zero_point);
    }
    const double scaled = std::floor(std::ldexp(sum, -t.shift) + (t.shift > 0 ? 0.5 : 0.0));
    const double rounded =
        std::floor(std::clamp(scaled, -32768.0, 32767.0) * t.multiplier / 32768.0 + 0.5);
    return std::clamp(rounded, -128.0, 127.0);
  };
  ForOutputs(g, input, output, [&](const float* image, int oy, int ox, int c) {
    double sum = 0.0;
    ForTaps(g, oy, ox, [&](int tap, int y, int x, bool inside) {
      for (int m = 0; inside && m < w.subspaces; ++m) {
        const uint8_t* row = w.indices + (static_cast<int64_t>(tap) * w.subspaces + m) * row_bytes;
        const float* pixel = image + (static_cast<int64_t>(y) * g.in_w + x) * g.in_c;
        sum += entry(pixel + c / g.group_out() * g.group_in(), m, StreamElement(row, c, w.bits));
      }
    });
    return transform.Apply(static_cast<float>(sum), c);
  });
}

}  // namespace kerasq
