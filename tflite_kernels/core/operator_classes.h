// The ways an operator is carried out; the factories of operators.h choose among them.
#ifndef KERASQ_CORE_OPERATOR_CLASSES_H_
#define KERASQ_CORE_OPERATOR_CLASSES_H_

#include <memory>
#include <string>
#include <vector>

#include "core/byte_codebook.h"
#include "core/operators.h"
#include "core/output_transform.h"
#include "core/packed_codebook.h"

namespace kerasq {

// Quantized inputs: xor and popcount.
std::unique_ptr<ConvOperator> MakeBinaryConv(const ConvGeometry& geometry,
                                             const BitplaneWeights& weights);

// Float inputs: planes decoded for a GEMM.
std::unique_ptr<ConvOperator> MakeWeightOnlyConv(const ConvGeometry& geometry,
                                                 const BitplaneWeights& weights);

// How a codebook is run: by the cheaper way for each geometry, or (in tests) by one of them.
enum class CodebookPath { kCheaper, kLookUp, kGemm };

// Tables or a GEMM, as the geometry of the moment makes worth while.
std::unique_ptr<ConvOperator> MakeLookUpOrGemmConv(const ConvGeometry& geometry,
                                                   const CodebookWeights& weights,
                                                   PackedCodebook book,
                                                   CodebookPath path = CodebookPath::kCheaper);

// Tables of 8 bits.
std::unique_ptr<ConvOperator> MakeByteTables(const ConvGeometry& geometry,
                                             const CodebookWeights& weights,
                                             const ByteTables& tables, ByteCodebook book);

// One input channel a group: channels are lanes, weights (there are few) are decoded once.
std::unique_ptr<ConvOperator> MakeDepthwiseConv(const ConvGeometry& geometry,
                                                const BitplaneWeights& weights);
std::unique_ptr<ConvOperator> MakeDepthwiseConv(const ConvGeometry& geometry,
                                                const CodebookWeights& weights,
                                                const PackedCodebook& book);
// `weights` are [taps][out_c].
std::unique_ptr<ConvOperator> MakeDepthwiseConv(const ConvGeometry& geometry,
                                                const std::string& name, std::vector<float> weights,
                                                const OutputTransform& transform);

}  // namespace kerasq

#endif  // KERASQ_CORE_OPERATOR_CLASSES_H_
