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
constexpr int kMaxCodewords = 1 << 16;

// Of Bitpack: thresholds and direction.
std::string CheckBitpack(const ConvGeometry& geometry, const BitpackWeights& weights);
// All but the indices, which are checked as they are unpacked.
std::string CheckCodebook(const ConvGeometry& geometry, const CodebookWeights& weights);
std::string CheckByteTables(const ConvGeometry& geometry, const CodebookWeights& weights,
                            const ByteTables& tables);
// Of multiplier and bias.
std::string CheckOutput(const ConvGeometry& geometry, int multiplier_size, int bias_size);
// What is wrong with an index that a codebook of `codewords` does not have.
std::string PastCodebook(int index, int codewords);

}  // namespace kerasq

#endif  // KERASQ_CORE_CHECKS_H_
