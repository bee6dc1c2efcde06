// Streams of canonical Huffman codes of at most 15 bits.
#ifndef KERASQ_CORE_HUFFMAN_H_
#define KERASQ_CORE_HUFFMAN_H_

#include <cstdint>
#include <string>
#include <vector>

namespace kerasq {

constexpr int kMaxHuffmanLength = 15;

// The code of `alphabet` symbols (at most 256): the lengths of theirs, 4 bits each, the lower half
// of a byte first; 0 for a symbol without a code.
struct HuffmanCode {
  const uint8_t* lengths;  // [ceil(alphabet / 2)]
  int alphabet;

  int length(int symbol) const { return lengths[symbol / 2] >> (symbol % 2 * 4) & 15; }
};

// Codes from their first bit on, from a byte's lowest bit on.
struct HuffmanStream {
  const uint8_t* bytes;
  int64_t size;  // of the whole stream, one byte at least
};

// Reads `count` symbols. Returns why they cannot be read, or an empty string.
std::string DecodeHuffman(const HuffmanCode& code, const HuffmanStream& stream, int64_t count,
                          std::vector<uint8_t>* symbols);

}  // namespace kerasq

#endif  // KERASQ_CORE_HUFFMAN_H_
