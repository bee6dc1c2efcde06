// Convolution by look-up tables, whose lanes are neighbouring output positions.
#ifndef KERASQ_CORE_LOOKUP_CONV_H_
#define KERASQ_CORE_LOOKUP_CONV_H_

#include "core/kernels.h"
#include "core/operators.h"
#include "core/output_transform.h"
#include "core/packed_codebook.h"

namespace kerasq {

// How a geometry is cut: tiles of `columns` outputs of a row, and sub-spaces per table.
struct LookUpPlan {
  LookUpPlan(const ConvGeometry& geometry, const PackedCodebook& book);

  ConvGeometry g;      // of one long row where the convolution is pointwise
  int tiles, columns;  // tiles a row, outputs a tile
  int vectors;         // of 8 floats, that hold `columns`
  int phases;          // columns of the input modulo the stride, as far as taps read them
  int phase_columns;   // columns of one phase
  int64_t row;         // floats of a codeword's row in the table: all phases
  int subspaces;       // in one table, so that it stays near the first-level cache
  int ring;            // output rows that an input row meets
  int channels;        // of a group, a multiple of 8
  double cost;         // estimated cycles on one thread

  int64_t TableFloats(const PackedCodebook& book) const;
  int64_t ThreadFloats(const PackedCodebook& book) const;
};

size_t LookUpScratchBytes(const LookUpPlan& plan, const PackedCodebook& book, int num_threads);

void LookUpConv(const LookUpPlan& plan, const PackedCodebook& book, const Kernels& kernels,
                const OutputTransform& transform, const float* input, float* output, void* scratch,
                ThreadPool* pool);

}  // namespace kerasq

#endif  // KERASQ_CORE_LOOKUP_CONV_H_
