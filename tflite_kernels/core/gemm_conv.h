// Convolution by decoding a panel of weights into cache and multiplying it with pixels in place.
#ifndef KERASQ_CORE_GEMM_CONV_H_
#define KERASQ_CORE_GEMM_CONV_H_

#include <functional>

#include "core/kernels.h"
#include "core/operators.h"
#include "core/output_transform.h"

namespace kerasq {

// Decodes the kernels of output channels first .. first + count - 1 (at most 16, all of one group)
// for the input channels begin .. end - 1 of the group:
// panel[(tap * (end - begin) + i) * 16 + l]. Lanes from `count` on are not read.
// Returns the panel: `panel`, or memory of its own.
using DecodePanel =
    std::function<const float*(int first, int count, int begin, int end, float* panel)>;

// Input channels a panel holds; a multiple of `multiple`.
int PanelDepth(const ConvGeometry& geometry, int multiple);

size_t GemmScratchBytes(const ConvGeometry& geometry, int panel_depth, int num_threads);

// Padded taps read `pad_value`.
void GemmConv(const ConvGeometry& geometry, const Kernels& kernels, const DecodePanel& decode,
              int panel_depth, const OutputTransform& transform, float pad_value,
              const float* input, float* output, void* scratch, ThreadPool* pool);

}  // namespace kerasq

#endif  // KERASQ_CORE_GEMM_CONV_H_
