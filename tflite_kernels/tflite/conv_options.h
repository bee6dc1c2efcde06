// Geometry of a convolution or a dense layer: from the options and the input's shape.
#ifndef KERASQ_TFLITE_CONV_OPTIONS_H_
#define KERASQ_TFLITE_CONV_OPTIONS_H_

#include <vector>

#include "core/operators.h"
#include "tflite/options.h"
#include "tflite/status.h"
#include "tflite/tflite_c_api.h"

namespace kerasq {

enum class Padding { kSame = 0, kValid = 1, kExplicit = 2 };

// Bounds every option, so that their products fit in 64 bits.
constexpr int kMaxOption = 1 << 20;

struct ConvOptions {
  bool dense = false;
  Activation activation = Activation::kNone;
  Padding padding = Padding::kValid;
  int channels_out = 0, groups = 1;
  int bits_in = 0;  // channels of an input of bits, or 0 for floats
  bool bits_out = false;
  int kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
};

// Read the options that all operators share, their version among them.
Status ReadConvOptions(const Options& options, bool dense, ConvOptions* conv);

// Check the input's rank and size; compute the geometry and the output's shape.
Status ComputeGeometry(const ConvOptions& options, const TfLiteTensor& input,
                       ConvGeometry* geometry, std::vector<int>* output_shape);

}  // namespace kerasq

#endif  // KERASQ_TFLITE_CONV_OPTIONS_H_
