// The fuzzed function on random inputs and on those that once failed: a little of `make fuzz`
// wherever the tests run.
#include <gtest/gtest.h>

#include <vector>

#include "tests/random.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace kerasq {
namespace {

TEST(Fuzz, RandomInputsEndWell) {
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const std::vector<uint8_t> input = random.Bytes(random.Int(1, 80));
    EXPECT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0);
  }
}

TEST(Fuzz, InputsThatOnceFailedEndWell) {
  const std::vector<uint8_t> inputs[] = {
      // An offset from a constant that is nowhere, in the check of the runtime's layout.
      {0, 0, 0, 0, 0, 0, 0x0a, 0xff, 0xff, 0x0a, 0xff},
  };
  for (const std::vector<uint8_t>& input : inputs) {
    EXPECT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0);
  }
}

}  // namespace
}  // namespace kerasq
