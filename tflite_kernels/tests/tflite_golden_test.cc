// Files of packed constants that Python writes (tests/export/golden.py): each must decode to the
// kernel that is written down beside it.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/tflite_any_operator.h"

namespace kerasq {
namespace {

struct Golden {
  std::string name;
  std::map<std::string, int64_t> options;
  std::vector<FileTensor> constants;
  std::vector<int> kernel_shape;  // kh, kw, inputs, outputs
  std::vector<float> kernel;
};

TfLiteType TypeOf(const std::string& name) {
  for (TfLiteType type : {kTfLiteFloat32, kTfLiteFloat16, kTfLiteUInt8}) {
    if (name == TypeName(type)) return type;
  }
  return kTfLiteNoType;
}

// Sizes up to the equals sign.
std::vector<int> ReadShape(std::istream& line) {
  std::vector<int> shape;
  for (std::string word; line >> word && word != "=";) shape.push_back(std::stoi(word));
  return shape;
}

Golden Read(const std::string& path) {
  Golden golden;
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string what, word;
    line >> what;
    if (what == "operator") line >> golden.name;
    if (what == "option") {
      line >> word;
      line >> golden.options[word];
    }
    if (what == "constant") {
      line >> word;
      FileTensor constant = {TypeOf(word), ReadShape(line), {}};
      while (line >> word) {
        constant.bytes.push_back(static_cast<uint8_t>(std::stoi(word, nullptr, 16)));
      }
      golden.constants.push_back(constant);
    }
    if (what == "kernel") {
      golden.kernel_shape = ReadShape(line);
      while (line >> word) golden.kernel.push_back(std::stof(word));
    }
  }
  return golden;
}

// The kernel, weight by weight: an image for each, which is 1 at its tap and input, and 0
// elsewhere.
std::vector<float> Decode(const Golden& golden, int kind) {
  const std::vector<int>& shape = golden.kernel_shape;
  const int weights = shape[0] * shape[1] * shape[2];
  const bool dense = golden.name.find("Dense") != std::string::npos;
  FakeRuntime runtime;
  const int input = runtime.AddTensor(
      kTfLiteFloat32, dense ? std::vector<int>{weights, weights}
                            : std::vector<int>{weights, shape[0], shape[1], shape[2]});
  const int output = runtime.AddTensor(kTfLiteFloat32, {1});
  std::vector<int> inputs = {input};
  for (const FileTensor& constant : golden.constants) {
    inputs.push_back(runtime.AddStored(constant.type, constant.shape, constant.bytes.data(),
                                       constant.bytes.size()));
  }
  runtime.AddNode(golden.name.c_str(), inputs, output, EncodeOptions(golden.options));
  runtime.Register(RegistrationOf(kind));
  EXPECT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  for (int i = 0; i < weights; ++i) runtime.Floats(input)[i * weights + i] = 1.0f;
  EXPECT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
  return std::vector<float>(runtime.Floats(output), runtime.Floats(output) + weights * shape[3]);
}

TEST(Golden, EveryFileDecodesToItsKernel) {
  for (const char* file :
       {"bit_planes_conv", "bit_planes_dense", "codebook_by_position", "codebook_by_channel",
        "codebook_dense", "sparse_conv", "hashed_dense"}) {
    const Golden golden = Read(std::string(KERASQ_GOLDEN "/") + file + ".txt");
    int kind = 0;
    while (kOperatorNames[kind] != nullptr && golden.name != kOperatorNames[kind]) ++kind;
    ASSERT_NE(kOperatorNames[kind], nullptr) << file;
    EXPECT_EQ(Decode(golden, kind), golden.kernel) << file;
  }
}

}  // namespace
}  // namespace kerasq
