#include "core/kernels.h"

#include <cstdlib>
#include <cstring>

namespace kerasq {
namespace {

// The set of that name, or null; the best one for null or an empty name.
const Kernels* Find(const char* name) {
  const bool best = name == nullptr || *name == '\0';
#if defined(__x86_64__)
  const bool machine = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (machine && (best || std::strcmp(name, "avx2") == 0)) return &Avx2Kernels();
#elif defined(__aarch64__)
  if (best || std::strcmp(name, "neon") == 0) return &NeonKernels();
#endif
  return best || std::strcmp(name, "scalar") == 0 ? &ScalarKernels() : nullptr;
}

}  // namespace

const Kernels& SelectKernels() {
  const Kernels* kernels = Find(std::getenv("KERASQ_ISA"));
  return kernels != nullptr ? *kernels : ScalarKernels();
}

std::string CheckIsa() {
  const char* wanted = std::getenv("KERASQ_ISA");
  if (Find(wanted) != nullptr) return "";
  return std::string("KERASQ_ISA=") + wanted + " is not available on this machine: unset it, or " +
         "set it to scalar or " + Find(nullptr)->isa;
}

}  // namespace kerasq
