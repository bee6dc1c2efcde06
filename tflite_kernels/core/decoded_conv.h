// Kernels that are decoded once, when the weights are packed, to floats as the GEMM reads them.
#ifndef KERASQ_CORE_DECODED_CONV_H_
#define KERASQ_CORE_DECODED_CONV_H_

#include <memory>
#include <string>
#include <vector>

#include "core/operators.h"
#include "core/output_transform.h"

namespace kerasq {

// Zeros at first. The panels of GemmConv in memory, a block of 16 output channels after the other.
class DecodedKernel {
 public:
  // Why a kernel cannot be decoded: too large. Empty if it can.
  static std::string Check(const ConvGeometry& geometry);

  explicit DecodedKernel(const ConvGeometry& geometry);

  // Of output channel `output`; `input` counts the input channels of its group.
  float& at(int tap, int input, int output) { return values_[Index(tap, input, output)]; }
  float at(int tap, int input, int output) const { return values_[Index(tap, input, output)]; }

  int panel_depth() const { return panel_depth_; }
  // What DecodePanel fills for output channels from `first` on and input channels from `begin` on.
  const float* panel(int first, int begin) const { return &values_[Index(0, begin, first)]; }

 private:
  int64_t Index(int tap, int input, int output) const;

  const int taps_, group_in_, group_out_, blocks_, panel_depth_;
  std::vector<float> values_;
};

// `name` is that of the path, without the instruction set.
std::unique_ptr<ConvOperator> MakeDecodedConv(const ConvGeometry& geometry, const std::string& name,
                                              DecodedKernel kernel,
                                              const OutputTransform& transform);

// The kernel of a codebook; null, and `error` says why, where an index is past its codebook.
std::unique_ptr<DecodedKernel> DecodeCodebook(const ConvGeometry& geometry,
                                              const CodebookWeights& weights, std::string* error);

}  // namespace kerasq

#endif  // KERASQ_CORE_DECODED_CONV_H_
