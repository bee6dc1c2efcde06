#include "core/huffman.h"

#include <algorithm>

namespace kerasq {
namespace {

constexpr int kWindows = 1 << kMaxHuffmanLength;

struct Symbol {
  uint8_t value, length;
};

// The symbol that every window of the stream's next 15 bits begins with.
std::string BuildTable(const HuffmanCode& code, std::vector<Symbol>* table) {
  table->resize(kWindows);
  int64_t windows = 0;  // that the codes so far take, and the next code, of 15 bits
  for (int length = 1; length <= kMaxHuffmanLength; ++length) {
    const int share = kWindows >> length;
    for (int symbol = 0; symbol < code.alphabet; ++symbol) {
      if (code.length(symbol) != length) continue;
      if (windows + share > kWindows) return "its Huffman code is over-subscribed";
      int first = 0;  // a code's first bit is the window's lowest
      for (int bit = 0; bit < length; ++bit) {
        first |= static_cast<int>(windows >> (kMaxHuffmanLength - 1 - bit) & 1) << bit;
      }
      for (int window = first; window < kWindows; window += 1 << length) {
        (*table)[window] = {static_cast<uint8_t>(symbol), static_cast<uint8_t>(length)};
      }
      windows += share;
    }
  }
  return windows == kWindows ? "" : "its Huffman code is incomplete";
}

}  // namespace

std::string DecodeHuffman(const HuffmanCode& code, const HuffmanStream& stream, int64_t count,
                          std::vector<uint8_t>* symbols) {
  std::vector<Symbol> table;
  const std::string wrong = BuildTable(code, &table);
  if (!wrong.empty()) return wrong;
  const std::string size_text = "it has " + std::to_string(stream.size) + " bytes, too ";
  const std::string count_text = " for " + std::to_string(count) + " symbols";
  if (count > stream.size * 8) return size_text + "few" + count_text;
  symbols->resize(static_cast<size_t>(count));
  uint64_t window = 0;  // bits read and not used, zeros after the last
  int64_t read = 0, used = 0;
  for (uint8_t& symbol : *symbols) {
    for (; read - used < kMaxHuffmanLength && read < stream.size * 8; read += 8) {
      window |= static_cast<uint64_t>(stream.bytes[read / 8]) << (read - used);
    }
    const Symbol next = table[window & (kWindows - 1)];
    symbol = next.value;
    window >>= next.length;
    used += next.length;
    if (used > stream.size * 8) return size_text + "few" + count_text;
  }
  const int64_t needed = std::max<int64_t>(1, (used + 7) / 8);
  return stream.size == needed ? "" : size_text + "many" + count_text;
}

}  // namespace kerasq
