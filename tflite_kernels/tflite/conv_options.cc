#include "tflite/conv_options.h"

#include <algorithm>
#include <limits>

#include "tflite/tensors.h"

namespace kerasq {
namespace {

constexpr int kVersion = 1;
// Bounds every coordinate of the padded input, so that the kernels can compute with int.
constexpr int64_t kMaxSpan = 1 << 30;

Status ReadConvolution(const Options& options, ConvOptions* conv) {
  KERASQ_RETURN_IF_ERROR(options.Get("kernel_h", 1, kMaxOption, &conv->kernel_h));
  KERASQ_RETURN_IF_ERROR(options.Get("kernel_w", 1, kMaxOption, &conv->kernel_w));
  KERASQ_RETURN_IF_ERROR(options.Get("stride_h", 1, kMaxOption, &conv->stride_h));
  KERASQ_RETURN_IF_ERROR(options.Get("stride_w", 1, kMaxOption, &conv->stride_w));
  KERASQ_RETURN_IF_ERROR(options.Get("dilation_h", 1, kMaxOption, &conv->dilation_h));
  KERASQ_RETURN_IF_ERROR(options.Get("dilation_w", 1, kMaxOption, &conv->dilation_w));
  KERASQ_RETURN_IF_ERROR(options.Get("groups", 1, kMaxOption, &conv->groups));
  KERASQ_ENSURE(conv->channels_out % conv->groups == 0, "its ", conv->channels_out,
                " output channels do not divide into ", conv->groups, " groups");
  int padding;
  KERASQ_RETURN_IF_ERROR(options.Get("padding", 0, 2, &padding));
  conv->padding = static_cast<Padding>(padding);
  if (conv->padding != Padding::kExplicit) return Status::Ok();
  KERASQ_RETURN_IF_ERROR(options.Get("pad_top", 0, kMaxOption, &conv->pad_top));
  KERASQ_RETURN_IF_ERROR(options.Get("pad_bottom", 0, kMaxOption, &conv->pad_bottom));
  KERASQ_RETURN_IF_ERROR(options.Get("pad_left", 0, kMaxOption, &conv->pad_left));
  return options.Get("pad_right", 0, kMaxOption, &conv->pad_right);
}

// One spatial axis of a convolution.
struct Axis {
  const char* name;
  int input, kernel, stride, dilation, pad_before, pad_after;
};

Status ComputeAxis(Padding padding, const Axis& axis, int* output, int* pad_before) {
  const int64_t span = static_cast<int64_t>(axis.kernel - 1) * axis.dilation + 1;
  int64_t before = axis.pad_before, padded = int64_t{axis.input} + before + axis.pad_after;
  if (padding == Padding::kSame) {
    const int64_t steps = (int64_t{axis.input} + axis.stride - 1) / axis.stride;
    const int64_t total = std::max<int64_t>((steps - 1) * axis.stride + span - axis.input, 0);
    before = total / 2;
    padded = steps == 0 ? 0 : axis.input + total;
  }
  KERASQ_ENSURE(padded <= kMaxSpan && span <= kMaxSpan, "its kernel or padding spans more than ",
                kMaxSpan, " positions along the ", axis.name);
  KERASQ_ENSURE(padded >= span || axis.input == 0, "its kernel spans ", span,
                " positions, but the padded input has ", padded, " along the ", axis.name,
                ": feed a larger input");
  *output = padded < span ? 0 : static_cast<int>((padded - span) / axis.stride + 1);
  *pad_before = static_cast<int>(before);
  return Status::Ok();
}

Status CheckOutputSize(const std::vector<int>& shape) {
  int64_t count = 1;
  for (int size : shape) {
    KERASQ_ENSURE(!__builtin_mul_overflow(count, static_cast<int64_t>(size), &count) &&
                      count <= std::numeric_limits<int32_t>::max(),
                  "its output would have more than 2^31 - 1 elements");
  }
  return Status::Ok();
}

}  // namespace

Status ReadConvOptions(const Options& options, bool dense, ConvOptions* conv) {
  int version, activation;
  KERASQ_RETURN_IF_ERROR(options.Get("version", 1, std::numeric_limits<int>::max(), &version));
  KERASQ_ENSURE(version == kVersion, "it has version ", version, " and this library knows version ",
                kVersion, ": update kerasq");
  conv->dense = dense;
  KERASQ_RETURN_IF_ERROR(options.Get("activation", 0, 2, &activation));
  conv->activation = static_cast<Activation>(activation);
  KERASQ_RETURN_IF_ERROR(options.Get("channels_out", 1, kMaxOption, &conv->channels_out));
  return dense ? Status::Ok() : ReadConvolution(options, conv);
}

Status ComputeGeometry(const ConvOptions& options, const TfLiteTensor& input,
                       ConvGeometry* geometry, std::vector<int>* output_shape) {
  int64_t elements;
  KERASQ_RETURN_IF_ERROR(CountElements("its input", input, &elements));
  const int rank = input.dims->size;
  KERASQ_ENSURE(options.dense ? rank >= 1 : rank == 4, "its input has shape ", ShapeText(input),
                ", expected ", options.dense ? "(..., channels)" : "(N, H, W, channels)");
  const int last = Dimension(input, rank - 1);
  KERASQ_ENSURE(last >= 1, "its input has no channels");
  KERASQ_ENSURE(options.bits_in == 0 || last == BitWords(options.bits_in), "its input has ", last,
                " words a pixel, but ", options.bits_in, " channels of bits take ",
                BitWords(options.bits_in),
                ": the file is damaged or does not fit its input, convert it again");
  const int channels = options.bits_in > 0 ? options.bits_in : last;
  KERASQ_ENSURE(channels % options.groups == 0, "the ", channels,
                " channels of its input do not divide into ", options.groups, " groups");
  *geometry = {};
  geometry->in_c = channels;
  geometry->out_c = options.channels_out;
  geometry->kernel_h = options.kernel_h;
  geometry->kernel_w = options.kernel_w;
  geometry->stride_h = options.stride_h;
  geometry->stride_w = options.stride_w;
  geometry->dilation_h = options.dilation_h;
  geometry->dilation_w = options.dilation_w;
  geometry->groups = options.groups;
  output_shape->assign(input.dims->data, input.dims->data + rank);
  output_shape->back() = options.bits_out ? BitWords(options.channels_out) : options.channels_out;
  if (options.dense) {
    geometry->batch = static_cast<int>(elements / last);
    geometry->in_h = geometry->in_w = geometry->out_h = geometry->out_w = 1;
    return CheckOutputSize(*output_shape);
  }
  geometry->batch = Dimension(input, 0);
  geometry->in_h = Dimension(input, 1);
  geometry->in_w = Dimension(input, 2);
  const Axis height = {"height",           geometry->in_h,  options.kernel_h,  options.stride_h,
                       options.dilation_h, options.pad_top, options.pad_bottom};
  const Axis width = {"width",          geometry->in_w,     options.kernel_w,
                      options.stride_w, options.dilation_w, options.pad_left,
                      options.pad_right};
  KERASQ_RETURN_IF_ERROR(
      ComputeAxis(options.padding, height, &geometry->out_h, &geometry->pad_top));
  KERASQ_RETURN_IF_ERROR(
      ComputeAxis(options.padding, width, &geometry->out_w, &geometry->pad_left));
  (*output_shape)[1] = geometry->out_h;
  (*output_shape)[2] = geometry->out_w;
  return CheckOutputSize(*output_shape);
}

}  // namespace kerasq
