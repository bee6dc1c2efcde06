// Kernels whose weights share the values of their hash bucket (HashedNets): hashed once.
#include <string>
#include <utility>

#include "core/checks.h"
#include "core/decoded_conv.h"
#include "core/kernels.h"
#include "core/values.h"
#include "core/xxhash32.h"

namespace kerasq {

float HashedWeight(const HashedWeights& w, int input, int output) {
  const std::string place = std::to_string(output) + '_' + std::to_string(input);
  const uint32_t seed = static_cast<uint32_t>(w.seed);
  const uint32_t bucket = Xxh32(place + "idxW", seed) % static_cast<uint32_t>(w.buckets);
  const float value = FloatOrHalf(w.value_data, w.values_are_f16, bucket);
  return Xxh32(place + "xiW", seed) % 2 == 1 ? value : -value;
}

std::unique_ptr<ConvOperator> MakeHashedConv(const ConvGeometry& g, const HashedWeights& w,
                                             std::string* error) {
  *error = CheckGeometry(g);
  if (error->empty() && (g.taps() != 1 || g.groups != 1)) *error = "it must be a dense layer";
  if (error->empty() && w.buckets < 1) *error = "there must be a value";
  if (error->empty()) *error = CheckOutput(g, w.multiplier_size, w.bias_size);
  if (error->empty()) *error = CheckIsa();
  if (error->empty()) *error = DecodedKernel::Check(g);
  if (!error->empty()) return nullptr;
  DecodedKernel kernel(g);
  for (int c = 0; c < g.out_c; ++c) {
    for (int i = 0; i < g.in_c; ++i) kernel.at(0, i, c) = HashedWeight(w, i, c);
  }
  return MakeDecodedConv(g, "hashed", std::move(kernel), TransformOf(w));
}

}  // namespace kerasq
