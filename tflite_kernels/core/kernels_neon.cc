// The microkernels for neon.
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "core/kernels.h"

#define KERASQ_SIMD_NEON
#define KERASQ_ISA_NAME "neon"

namespace kerasq {
namespace {
#include "core/simd.h"
// The kernels below use what simd.h above declares.
#include "core/kernels_inl.h"
}  // namespace

const Kernels& NeonKernels() { return kKernels; }

}  // namespace kerasq
