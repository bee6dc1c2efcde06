#include "core/kernels.h"

#include <cstdlib>
#include <cstring>

namespace kerasq {

const Kernels& SelectKernels() {
  const char* wanted = std::getenv("KERASQ_ISA");
  if (wanted != nullptr && std::strcmp(wanted, "scalar") == 0) return ScalarKernels();
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Avx2Kernels();
  return ScalarKernels();
#elif defined(__aarch64__)
  return NeonKernels();
#else
  return ScalarKernels();
#endif
}

}  // namespace kerasq
