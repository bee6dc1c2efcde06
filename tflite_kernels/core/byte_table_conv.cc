// Codebooks with look-up tables of 8 bits: which way suits the codebook and the map.
#include <algorithm>
#include <string>
#include <utility>

#include "core/byte_codebook.h"
#include "core/codeword_lanes.h"
#include "core/operator_classes.h"
#include "core/position_lanes.h"

namespace kerasq {
namespace {

constexpr int kFewPositions = 8;  // of 16 lanes: fewer leave most of a vector unused
constexpr int kMaxSpan = 4096;

class ByteTableConv : public ConvOperator {
 public:
  ByteTableConv(const ConvGeometry& g, const CodebookWeights& w, const ByteTables& tables,
                ByteCodebook book)
      : kernels_(SelectKernels()),
        transform_(TransformOf(w)),
        tables_(tables),
        book_(std::move(book)),
        nibbles_(book_.size() <= kEntryLanes ? PackNibbles(g, book_) : std::vector<uint8_t>()),
        codeword_name_(std::string(nibbles_.empty() ? "codebook_bytes_" : "codebook_nibbles_") +
                       kernels_.isa),
        position_name_(std::string("codebook_byte_lines_") + kernels_.isa) {}

  const char* kernel_name(const ConvGeometry& g) const override {
    return (UsesPositions(g) ? position_name_ : codeword_name_).c_str();
  }

  size_t ScratchBytes(const ConvGeometry& g, int num_threads) const override {
    if (UsesPositions(g)) return PositionLanes(g, book_, num_threads).ScratchBytes();
    return CodewordLanes(g, book_, num_threads).ScratchBytes();
  }

  void Run(const ConvGeometry& g, const void* input_data, void* output_data, void* scratch,
           ThreadPool* pool) const override {
    const auto* input = static_cast<const float*>(input_data);
    auto* output = static_cast<float*>(output_data);
    if (UsesPositions(g)) {
      PositionLanes(g, book_, pool->num_threads())
          .Run(kernels_, tables_, transform_, input, output, scratch, pool);
      return;
    }
    CodewordLanes(g, book_, pool->num_threads())
        .Run(kernels_, tables_, nibbles_, transform_, input, output, scratch, pool);
  }

 private:
  // Sums are integers: all ways give the same result. A line of positions holds all that a kernel
  // spans.
  bool UsesPositions(const ConvGeometry& g) const {
    const bool narrow =
        std::max((g.kernel_h - 1) * g.dilation_h, (g.kernel_w - 1) * g.dilation_w) < kMaxSpan;
    const int64_t positions = int64_t{g.out_h} * g.out_w * (g.taps() == 1 ? g.batch : 1);
    return nibbles_.empty() && narrow && g.taps() <= kMaxByteSums && positions >= kFewPositions;
  }

  const Kernels& kernels_;
  const OutputTransform transform_;
  const ByteTables tables_;
  const ByteCodebook book_;
  const std::vector<uint8_t> nibbles_;
  const std::string codeword_name_, position_name_;
};

}  // namespace

std::unique_ptr<ConvOperator> MakeByteTables(const ConvGeometry& g, const CodebookWeights& w,
                                             const ByteTables& tables, ByteCodebook book) {
  return std::make_unique<ByteTableConv>(g, w, tables, std::move(book));
}

}  // namespace kerasq
