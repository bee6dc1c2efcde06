// What the factories refuse: the reason, or an empty string.
#ifndef KERASQ_CORE_CHECKS_H_
#define KERASQ_CORE_CHECKS_H_

#include <string>

#include "core/operators.h"

namespace kerasq {

constexpr int kMaxWeightPlanes = 8;
constexpr int kMaxInputPlanes = 8;

std::string CheckGeometry(const ConvGeometry& geometry);
std::string CheckBitplane(const ConvGeometry& geometry, const BitplaneWeights& weights);
// All but the indices, which are checked as they are unpacked.
std::string CheckCodebook(const ConvGeometry& geometry, const CodebookWeights& weights);

}  // namespace kerasq

#endif  // KERASQ_CORE_CHECKS_H_
