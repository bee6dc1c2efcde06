// Eight floats and 256 bits, whatever the instruction set: the kernels are written once in these.
// Included by one file per instruction set, inside its own unnamed namespace.

#if defined(KERASQ_SIMD_AVX2)
#include "core/simd_avx2.h"
#elif defined(KERASQ_SIMD_NEON)
#include "core/simd_neon.h"
#else
#include "core/simd_scalar.h"
#endif
