#include <gtest/gtest.h>

#include "core/huffman.h"
#include "core_huffman_test_util.h"

namespace kerasq {
namespace {

std::vector<int> RandomSymbols(Random& random, int alphabet, int count) {
  std::vector<int> symbols(count);
  for (int& symbol : symbols) symbol = random.Int(0, alphabet - 1);
  return symbols;
}

TEST(Huffman, ReadsWhatWasWritten) {
  Random random(1);
  for (int alphabet : {2, 3, 4, 16, 17, 100, 255, 256}) {
    for (int count : {0, 1, 7, 1000}) {
      const std::vector<int> expected = RandomSymbols(random, alphabet, count);
      const EncodedSymbols encoded = Encode(RandomLengths(random, alphabet), expected);
      std::vector<uint8_t> symbols;
      ASSERT_EQ(DecodeHuffman(encoded.code(), encoded.stream(), count, &symbols), "");
      EXPECT_EQ(std::vector<int>(symbols.begin(), symbols.end()), expected);
    }
  }
}

TEST(Huffman, SymbolsWithoutACode) {
  const EncodedSymbols encoded = Encode({0, 2, 0, 1, 2}, {3, 1, 4, 4, 3, 1});
  std::vector<uint8_t> symbols;
  ASSERT_EQ(DecodeHuffman(encoded.code(), encoded.stream(), 6, &symbols), "");
  EXPECT_EQ(symbols, std::vector<uint8_t>({3, 1, 4, 4, 3, 1}));
}

TEST(Huffman, RefusesMalformedCodes) {
  const std::pair<std::vector<int>, const char*> codes[] = {
      {{1, 1, 1}, "over-subscribed"},
      {{1, 2, 2, 15}, "over-subscribed"},
      {std::vector<int>(256, 1), "over-"},
      {{0, 0, 0}, "incomplete"},
      {{1, 0}, "incomplete"},
      {{1, 2, 3}, "incomplete"},
      {{1, 2, 3, 4, 15}, "incomplete"},
  };
  for (const auto& [lengths, message] : codes) {
    const std::vector<uint8_t> packed = PackLengths(lengths), bytes = {0};
    std::vector<uint8_t> symbols;
    const std::string wrong = DecodeHuffman({packed.data(), static_cast<int>(lengths.size())},
                                            {bytes.data(), 1}, 1, &symbols);
    EXPECT_NE(wrong.find(message), std::string::npos) << wrong;
  }
}

TEST(Huffman, RefusesStreamsOfAnotherLength) {
  Random random(2);
  const std::vector<int> expected = RandomSymbols(random, 20, 100);
  const EncodedSymbols encoded = Encode(RandomLengths(random, 20), expected);
  std::vector<uint8_t> symbols;
  for (int64_t size = 0; size < encoded.stream().size; ++size) {
    // Exactly as long as it says, so that the sanitizers see a read past it.
    const std::vector<uint8_t> shorter(encoded.bytes.begin(), encoded.bytes.begin() + size);
    const std::string wrong = DecodeHuffman(encoded.code(), {shorter.data(), size}, 100, &symbols);
    EXPECT_NE(wrong.find("too few for 100 symbols"), std::string::npos) << wrong;
  }
  std::vector<uint8_t> longer = encoded.bytes;
  longer.push_back(0);
  const HuffmanStream stream = {longer.data(), static_cast<int64_t>(longer.size())};
  EXPECT_NE(DecodeHuffman(encoded.code(), stream, 100, &symbols).find("too many"),
            std::string::npos);
  EXPECT_NE(DecodeHuffman(encoded.code(), stream, int64_t{1} << 60, &symbols).find("too few"),
            std::string::npos);
}

TEST(Huffman, DamageIsAnErrorOrOtherSymbols) {
  Random random(3);
  for (int i = 0; i < 2000; ++i) {
    const int alphabet = random.Int(2, 256), count = random.Int(0, 60);
    EncodedSymbols encoded =
        Encode(RandomLengths(random, alphabet), RandomSymbols(random, alphabet, count));
    std::vector<uint8_t>& damaged = i % 2 ? encoded.lengths : encoded.bytes;
    for (int j = random.Int(1, 3); j > 0; --j) {
      damaged[random.Int(0, static_cast<int>(damaged.size()) - 1)] =
          static_cast<uint8_t>(random.Int(0, 255));
    }
    std::vector<uint8_t> symbols;
    if (!DecodeHuffman(encoded.code(), encoded.stream(), count, &symbols).empty()) continue;
    ASSERT_EQ(symbols.size(), static_cast<size_t>(count));
    for (uint8_t symbol : symbols) {
      ASSERT_LT(symbol, alphabet);
      ASSERT_GT(encoded.code().length(symbol), 0);
    }
  }
}

}  // namespace
}  // namespace kerasq
