// Convolution by tables of 8 bits, whose lanes are output positions: a row for each codeword.
#ifndef KERASQ_CORE_POSITION_LANES_H_
#define KERASQ_CORE_POSITION_LANES_H_

#include "core/byte_codebook.h"
#include "core/output_transform.h"
#include "core/thread_pool.h"

namespace kerasq {

// A tile of output rows is one line of positions: rows end in columns that nobody reads, so that
// every tap is an offset into the line. With strides the input is cut into phases, each a line.
class PositionLanes {
 public:
  PositionLanes(const ConvGeometry& geometry, const ByteCodebook& book, int num_threads);

  size_t ScratchBytes() const;

  void Run(const Kernels& kernels, const ByteTables& tables, const OutputTransform& transform,
           const float* input, float* output, void* scratch, ThreadPool* pool) const;

 private:
  struct Call;
  struct Buffers;
  struct Task;

  int64_t PhaseLine() const;  // positions of one phase's line
  int64_t Line() const;       // of all phases, a multiple of 16
  int Vectors() const { return CeilDiv(rows_ * pitch_, kEntryLanes); }
  int64_t ThreadBytes() const;
  int TapOffset(int tap) const;
  void Work(const Call& call, int task, int thread) const;
  void FillPlanes(const Call& call, const Task& task, const Buffers& buffers) const;
  void AddSubspaces(const Call& call, const Task& task, int first, int count,
                    const Buffers& buffers) const;
  void Widen(const Buffers& buffers) const;
  void Write(const Call& call, const Task& task, const Buffers& buffers) const;

  const ConvGeometry g_;  // of one long row where the convolution is pointwise
  const ByteCodebook& book_;
  const int num_threads_;
  int phases_h_, phases_w_;  // rows and columns modulo the stride, as far as taps read them
  int reach_h_, reach_w_;    // rows and columns of a phase beyond the outputs'
  int pitch_;                // positions from one row of a line to the next
  int columns_;              // outputs of a row in a tile
  int rows_;                 // output rows of a tile
  int tiles_h_, tiles_w_;
  int subspaces_;  // in one table
};

}  // namespace kerasq

#endif  // KERASQ_CORE_POSITION_LANES_H_
