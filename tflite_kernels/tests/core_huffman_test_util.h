// Random complete Huffman codes, and streams of them.
#ifndef KERASQ_TESTS_CORE_HUFFMAN_TEST_UTIL_H_
#define KERASQ_TESTS_CORE_HUFFMAN_TEST_UTIL_H_

#include <utility>
#include <vector>

#include "core/huffman.h"
#include "tests/random.h"

namespace kerasq {

// Owns the arrays that HuffmanCode and HuffmanStream point to.
struct EncodedSymbols {
  std::vector<uint8_t> lengths, bytes;
  int alphabet;

  HuffmanCode code() const { return {lengths.data(), alphabet}; }
  HuffmanStream stream() const { return {bytes.data(), static_cast<int64_t>(bytes.size())}; }
};

inline std::vector<uint8_t> PackLengths(const std::vector<int>& lengths) {
  std::vector<uint8_t> packed((lengths.size() + 1) / 2);
  for (size_t i = 0; i < lengths.size(); ++i) {
    packed[i / 2] |= static_cast<uint8_t>(lengths[i] << (i % 2 * 4));
  }
  return packed;
}

// Lengths of a complete code of all symbols: leaves of a tree, split until there are enough.
inline std::vector<int> RandomLengths(Random& random, int alphabet) {
  std::vector<int> lengths = {1, 1};
  while (static_cast<int>(lengths.size()) < alphabet) {
    int& leaf = lengths[random.Int(0, static_cast<int>(lengths.size()) - 1)];
    if (leaf == kMaxHuffmanLength) continue;
    const int longer = ++leaf;
    lengths.push_back(longer);
  }
  for (size_t i = lengths.size() - 1; i > 0; --i) {
    std::swap(lengths[i], lengths[random.Int(0, static_cast<int>(i))]);
  }
  return lengths;
}

// The canonical code, by counting up through the lengths.
inline EncodedSymbols Encode(const std::vector<int>& lengths, const std::vector<int>& symbols) {
  std::vector<int> codes(lengths.size());
  int next = 0;
  for (int length = 1; length <= kMaxHuffmanLength; ++length, next <<= 1) {
    for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
      if (lengths[symbol] == length) codes[symbol] = next++;
    }
  }
  EncodedSymbols encoded{PackLengths(lengths), {0}, static_cast<int>(lengths.size())};
  int64_t at = 0;
  for (int symbol : symbols) {
    for (int bit = lengths[symbol] - 1; bit >= 0; --bit, ++at) {
      encoded.bytes.resize(at / 8 + 1);
      encoded.bytes[at / 8] |= static_cast<uint8_t>((codes[symbol] >> bit & 1) << at % 8);
    }
  }
  return encoded;
}

}  // namespace kerasq

#endif  // KERASQ_TESTS_CORE_HUFFMAN_TEST_UTIL_H_
