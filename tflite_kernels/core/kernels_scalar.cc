// The microkernels for any machine.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/kernels.h"

#define KERASQ_ISA_NAME "scalar"

namespace kerasq {
namespace {
#include "core/simd.h"
// The kernels below use what simd.h above declares.
#include "core/kernels_inl.h"
}  // namespace

const Kernels& ScalarKernels() { return kKernels; }

}  // namespace kerasq
