// The microkernels for avx2.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/kernels.h"

#define KERASQ_SIMD_AVX2
#define KERASQ_ISA_NAME "avx2"

namespace kerasq {
namespace {
#include "core/simd.h"
// The kernels below use what simd.h above declares.
#include "core/kernels_inl.h"
}  // namespace

const Kernels& Avx2Kernels() { return kKernels; }

}  // namespace kerasq
