// A random operator of any kind as a file holds it: what sizes and values go together.
#ifndef KERASQ_TESTS_TFLITE_ANY_OPERATOR_H_
#define KERASQ_TESTS_TFLITE_ANY_OPERATOR_H_

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/values.h"
#include "kerasq/tflite_operators.h"
#include "tests/core_huffman_test_util.h"
#include "tests/random.h"
#include "tests/tflite_fake_runtime.h"
#include "tflite/conv_op.h"

namespace kerasq {

struct FileTensor {
  TfLiteType type;
  std::vector<int> shape;
  std::vector<uint8_t> bytes;  // of a constant; the input has none
};

// Makes kernels of kOperatorNames[kind].
inline const TfLiteRegistration& RegistrationOf(int kind) {
  static const TfLiteRegistration* const registrations[] = {
      KerasqRegister_BITPLANE_CONV_2D(), KerasqRegister_BITPLANE_DENSE(),
      KerasqRegister_CODEBOOK_CONV_2D(), KerasqRegister_CODEBOOK_DENSE(),
      KerasqRegister_SPARSE_CONV_2D(),   KerasqRegister_SPARSE_DENSE(),
      KerasqRegister_HASHED_DENSE()};
  return *registrations[kind];
}

class AnyOperator {
 public:
  static constexpr int kKinds = 7;

  // One of kind 0 .. kKinds - 1: kOperatorNames[kind].
  AnyOperator(Random& random, int kind) : name(kOperatorNames[kind]) {
    dense_ = name.find("Dense") != std::string::npos;
    MakeGeometry(random);
    if (name.find("Bitplane") != std::string::npos) MakeBitplane(random);
    if (name.find("Codebook") != std::string::npos) MakeCodebook(random);
    if (name.find("Sparse") != std::string::npos) MakeSparse(random);
    if (name.find("Hashed") != std::string::npos) MakeHashed(random);
  }

  // Returns the input; the output is the tensor after it, and the constants come then.
  int AddTo(FakeRuntime* runtime, int option_width = 4) const {
    const int input = runtime->AddTensor(tensors[0].type, tensors[0].shape);
    const int output = runtime->AddTensor(kTfLiteFloat32, {1});
    std::vector<int> inputs = {input};
    for (size_t i = 1; i < tensors.size(); ++i) {
      const FileTensor& tensor = tensors[i];
      inputs.push_back(
          runtime->AddStored(tensor.type, tensor.shape, tensor.bytes.data(), tensor.bytes.size()));
    }
    runtime->AddNode(name.c_str(), inputs, output, EncodeOptions(options, option_width));
    return input;
  }

  std::string name;
  std::map<std::string, int64_t> options = {{"version", 1}};
  std::vector<FileTensor> tensors;  // as the operator takes them, the input first

 private:
  void MakeGeometry(Random& random) {
    const int groups = dense_ || random.Int(0, 2) > 0 ? 1 : random.Int(2, 3);
    group_in_ = random.Int(0, 7) == 0 ? random.Int(60, 70) : random.Int(1, 9);
    const int channels_in = groups * group_in_;
    channels_out_ = groups * random.Int(1, 2) * random.Int(1, 9);
    options["activation"] = random.Int(0, 2);
    options["channels_out"] = channels_out_;
    if (dense_) {
      tensors.push_back({kTfLiteFloat32, {random.Int(0, 5), channels_in}, {}});
      return;
    }
    const int height = random.Int(3, 6);
    const int width = random.Int(0, 7) == 0 ? random.Int(60, 70) : random.Int(3, 10);
    tensors.push_back({kTfLiteFloat32, {random.Int(1, 2), height, width, channels_in}, {}});
    options["groups"] = groups;
    options["padding"] = random.Int(0, 2);
    for (const char* axis : {"h", "w"}) {
      const int kernel = random.Int(1, 3);
      taps_ *= kernel;
      options[std::string("kernel_") + axis] = kernel;
      options[std::string("stride_") + axis] = random.Int(1, 3);
      options[std::string("dilation_") + axis] = random.Int(1, 2);
    }
    for (const char* side : {"pad_top", "pad_bottom", "pad_left", "pad_right"}) {
      options[side] = random.Int(0, 3);
    }
  }

  void MakeBitplane(Random& random) {
    const int weight_planes = random.Int(1, 3), input_planes = random.Int(0, 3);
    options["weight_planes"] = weight_planes;
    options["input_planes"] = input_planes;
    if (!dense_) options["pad_value"] = random.Int(0, 1);
    AddBytes({weight_planes, channels_out_, (taps_ * group_in_ + 7) / 8}, random);
    AddFloats({weight_planes + random.Int(0, 1), OneOr(random, channels_out_)}, random);
    AddFloats({OneOr(random, channels_out_)}, random);
    if (input_planes > 0) AddQuantizer(random, input_planes);
  }

  void AddQuantizer(Random& random, int planes) {
    const int channels_in = tensors[0].shape.back();
    const int levels = random.Int(1, (1 << planes) - 1), rows = OneOr(random, channels_in);
    std::vector<float> thresholds = random.Floats(rows * levels);
    for (int row = 0; row < rows; ++row) {
      std::sort(thresholds.begin() + row * levels, thresholds.begin() + (row + 1) * levels);
    }
    Add(kTfLiteFloat32, {rows, levels}, thresholds);
    std::vector<float> direction(OneOr(random, channels_in));
    for (float& sign : direction) sign = random.Int(0, 1) ? 1.0f : -1.0f;
    Add(kTfLiteFloat32, {static_cast<int>(direction.size())}, direction);
    std::vector<uint8_t> bits(levels + 1);
    for (uint8_t& level : bits) level = static_cast<uint8_t>(random.Int(0, (1 << planes) - 1));
    Add(kTfLiteUInt8, {levels + 1}, bits);
    AddFloats({planes + random.Int(0, 1)}, random);
  }

  void MakeCodebook(Random& random) {
    const int sizes[] = {1, 2, 3, 16, 17, 256, 300};
    const int codewords = sizes[random.Int(0, 6)], subvector = random.Int(1, 9);
    const bool by_channel = random.Int(0, 3) == 0;
    int bits = 1;
    while (1 << bits < codewords) ++bits;
    options["subvector"] = subvector;
    options["codewords"] = codewords;
    options["bits"] = bits;
    options["order"] = by_channel;
    options["tables"] = 0;
    const int subspaces = CeilDiv(by_channel ? taps_ * group_in_ : group_in_, subvector);
    AddValues({OneOr(random, subspaces), codewords, subvector}, random);
    const int positions = by_channel ? 1 : taps_, row = CeilDiv(channels_out_ * bits, 8);
    std::vector<uint8_t> indices(positions * subspaces * row);
    for (int r = 0; r < positions * subspaces; ++r) {
      for (int c = 0; c < channels_out_; ++c) {
        const int index = random.Int(0, codewords - 1);
        for (int bit = 0; bit < bits; ++bit) {
          const int at = c * bits + bit;
          indices[r * row + at / 8] |= static_cast<uint8_t>((index >> bit & 1) << at % 8);
        }
      }
    }
    Add(kTfLiteUInt8, {positions, subspaces, row}, indices);
    AddOutput(random);
  }

  void MakeSparse(Random& random) {
    const int codewords = random.Int(0, 3) == 0 ? 256 : random.Int(2, 20);
    const int gap_bits = random.Int(2, 8);
    std::vector<int> gaps, codes;
    for (int position = -1; true;) {
      const int gap = random.Int(0, (1 << gap_bits) - 1);
      position += gap + 1;
      if (position >= taps_ * group_in_ * channels_out_) break;
      gaps.push_back(gap);
      codes.push_back(random.Int(0, codewords - 1));
    }
    options["channels_in"] = group_in_;
    options["codewords"] = codewords;
    options["gap_bits"] = gap_bits;
    options["entries"] = static_cast<int64_t>(gaps.size());
    AddValues({codewords}, random);
    std::fill_n(tensors.back().bytes.begin(), TypeBytes(tensors.back().type), uint8_t{0});
    AddStream(Encode(RandomLengths(random, 1 << gap_bits), gaps));
    AddStream(Encode(RandomLengths(random, codewords), codes));
    AddOutput(random);
  }

  void MakeHashed(Random& random) {
    options["channels_in"] = group_in_;
    options["buckets"] = random.Int(1, 60);
    options["seed"] = random.Int(0, 9);
    AddValues({static_cast<int>(options["buckets"])}, random);
    AddOutput(random);
  }

  static int OneOr(Random& random, int count) { return random.Int(0, 1) ? count : 1; }
  static int Count(const std::vector<int>& shape) {
    int count = 1;
    for (int size : shape) count *= size;
    return count;
  }

  template <typename T>
  void Add(TfLiteType type, const std::vector<int>& shape, const std::vector<T>& values) {
    std::vector<uint8_t> bytes(values.size() * sizeof(T));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    tensors.push_back({type, shape, bytes});
  }
  void AddFloats(const std::vector<int>& shape, Random& random) {
    Add(kTfLiteFloat32, shape, random.Floats(Count(shape)));
  }
  void AddBytes(const std::vector<int>& shape, Random& random) {
    Add(kTfLiteUInt8, shape, random.Bytes(Count(shape)));
  }
  // Floats or halves.
  void AddValues(const std::vector<int>& shape, Random& random) {
    if (random.Int(0, 1)) return AddFloats(shape, random);
    Add(kTfLiteFloat16, shape, random.Bytes(2 * Count(shape)));
  }
  void AddStream(const EncodedSymbols& encoded) {
    Add(kTfLiteUInt8, {static_cast<int>(encoded.bytes.size())}, encoded.bytes);
    Add(kTfLiteUInt8, {static_cast<int>(encoded.lengths.size())}, encoded.lengths);
  }
  void AddOutput(Random& random) {
    AddFloats({OneOr(random, channels_out_)}, random);
    AddFloats({OneOr(random, channels_out_)}, random);
  }

  bool dense_;
  int group_in_ = 1, channels_out_ = 1, taps_ = 1;
};

}  // namespace kerasq

#endif  // KERASQ_TESTS_TFLITE_ANY_OPERATOR_H_
