// Convolution by tables of 8 bits, whose lanes are codewords: a table for each input pixel.
#ifndef KERASQ_CORE_CODEWORD_LANES_H_
#define KERASQ_CORE_CODEWORD_LANES_H_

#include <vector>

#include "core/byte_codebook.h"
#include "core/output_transform.h"
#include "core/thread_pool.h"

namespace kerasq {

// The map is done in bands of output rows, so that the tables of their input rows stay in a cache.
class CodewordLanes {
 public:
  CodewordLanes(const ConvGeometry& geometry, const ByteCodebook& book, int num_threads);

  size_t ScratchBytes() const;

  // `nibbles` are the indices of at most 16 codewords, as PackNibbles gives them; empty for more.
  void Run(const Kernels& kernels, const ByteTables& tables, const std::vector<uint8_t>& nibbles,
           const OutputTransform& transform, const float* input, float* output, void* scratch,
           ThreadPool* pool) const;

 private:
  struct Call;
  struct Band;

  int64_t SubspaceSlots() const;  // of a table: an even number where indices have 4 bits
  int64_t PixelBytes() const;     // tables of one pixel and group
  int64_t ThreadBytes() const;
  int BandInputRows() const;
  void BuildTables(const Call& call, const Band& band, int row, int thread) const;
  void LookUp(const Call& call, const Band& band, int task, int thread) const;
  void FindTables(const Call& call, const Band& band, int group, int position,
                  const int8_t** tables) const;

  const ConvGeometry g_;  // of single pixels below each other where the convolution is pointwise
  const ByteCodebook& book_;
  const int num_threads_;
  int rows_;    // output rows of a band
  int splits_;  // parts of a band's positions that are looked up apart
};

// [group][block of 32 channels][tap][two sub-spaces][32]
std::vector<uint8_t> PackNibbles(const ConvGeometry& geometry, const ByteCodebook& book);

}  // namespace kerasq

#endif  // KERASQ_CORE_CODEWORD_LANES_H_
