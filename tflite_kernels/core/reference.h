// The operators straight from their meaning: slow, scalar, and what the kernels are tested against.
#ifndef KERASQ_CORE_REFERENCE_H_
#define KERASQ_CORE_REFERENCE_H_

#include "core/operators.h"

namespace kerasq {

void ReferenceBitplaneConv(const ConvGeometry& geometry, const BitplaneWeights& weights,
                           const float* input, float* output);
// The same with an input of bits, an output of bits, or both.
void ReferenceBitConv(const ConvGeometry& geometry, const BitplaneWeights& weights,
                      const void* input, void* output);
void ReferenceBitpack(const ConvGeometry& geometry, const BitpackWeights& weights,
                      const float* input, int32_t* output);
void ReferenceBitMaxPool(const ConvGeometry& geometry, const BitMaxPoolWeights& weights,
                         const int32_t* input, int32_t* output);
void ReferenceByteTableConv(const ConvGeometry& geometry, const CodebookWeights& weights,
                            const ByteTables& tables, const float* input, float* output);
void ReferenceCodebookConv(const ConvGeometry& geometry, const CodebookWeights& weights,
                           const float* input, float* output);
void ReferenceSparseConv(const ConvGeometry& geometry, const SparseWeights& weights,
                         const float* input, float* output);
void ReferenceHashedConv(const ConvGeometry& geometry, const HashedWeights& weights,
                         const float* input, float* output);

}  // namespace kerasq

#endif  // KERASQ_CORE_REFERENCE_H_
