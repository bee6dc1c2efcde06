// What becomes of a sum, apart from how it was accumulated.
#ifndef KERASQ_CORE_OUTPUT_TRANSFORM_H_
#define KERASQ_CORE_OUTPUT_TRANSFORM_H_

#include "core/operators.h"
#include "core/values.h"

namespace kerasq {

// y = act(multiplier[c] sum + bias[c]).
struct OutputTransform {
  const float* multiplier;
  int multiplier_size;
  const float* bias;
  int bias_size;
  Activation activation;

  float Apply(float sum, int channel) const {
    const float scaled = Broadcast(multiplier, multiplier_size, channel) * sum;
    return Activate(activation, scaled + Broadcast(bias, bias_size, channel));
  }
};

template <typename Weights>
OutputTransform TransformOf(const Weights& w) {
  return {w.multiplier, w.multiplier_size, w.bias, w.bias_size, w.activation};
}

}  // namespace kerasq

#endif  // KERASQ_CORE_OUTPUT_TRANSFORM_H_
