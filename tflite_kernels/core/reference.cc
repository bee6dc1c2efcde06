#include "core/reference.h"

#include <vector>

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

void ReferenceCodebookConv(const ConvGeometry& g, const CodebookWeights& w, const float* input,
                           float* output) {
  const int depth = g.group_in();
  const int64_t row_bytes = CeilDiv64(static_cast<int64_t>(g.out_c) * w.bits, 8);
  ForOutputs(g, input, output, [&](const float* image, int oy, int ox, int c) {
    const int first = c / g.group_out() * depth;
    double sum = 0.0;
    ForTaps(g, oy, ox, [&](int tap, int y, int x, bool inside) {
      if (!inside) return;
      for (int i = 0; i < depth; ++i) {
        const int m = i / w.subvector;
        const uint8_t* row = w.indices + (static_cast<int64_t>(tap) * w.subspaces + m) * row_bytes;
        const int64_t codeword = static_cast<int64_t>(w.codebooks == 1 ? 0 : m) * w.codewords +
                                 StreamElement(row, c, w.bits);
        sum += static_cast<double>(
                   image[(static_cast<int64_t>(y) * g.in_w + x) * g.in_c + first + i]) *
               CodewordElement(w, codeword * w.subvector + i % w.subvector);
      }
    });
    const float y = Broadcast(w.multiplier, w.multiplier_size, c) * static_cast<float>(sum);
    return Activate(w.activation, y + Broadcast(w.bias, w.bias_size, c));
  });
}

}  // namespace kerasq
