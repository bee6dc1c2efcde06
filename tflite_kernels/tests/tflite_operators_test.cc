// The operators through the runtime's callbacks, against the references of core.
#include "kerasq/tflite_operators.h"

#include <functional>
#include <tuple>

#include "tests/failing_new.h"
#include "tests/tflite_operator_cases.h"

namespace kerasq {
namespace {

TEST(Operators, BitplaneConvMatchesTheReferenceAcrossResizes) {
  FakeRuntime runtime;
  BitplaneCase test;
  const int input = test.AddTo(&runtime);
  runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
  std::mt19937 random(9);
  for (const auto& [batch, threads] : {std::pair(2, 1), {3, 2}, {0, 2}, {1, -1}}) {
    runtime.context.recommended_num_threads = threads;
    runtime.Resize(input, {batch, 5, 6, 4});
    ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
    EXPECT_EQ(runtime.Shape(input + 1), std::vector<int>({batch, 3, 6, 6}));
    const std::vector<float> x = RandomFloats(&random, batch * 5 * 6 * 4);
    std::copy(x.begin(), x.end(), runtime.Floats(input));
    ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
    ExpectNear(runtime.Floats(input + 1), test.Expect(x, ConvolutionOf(batch, 5, 3)));
  }
}

TEST(Operators, BitplaneDenseTakesAnyRank) {
  for (const std::vector<int>& shape : {std::vector<int>{4}, {3, 4}, {2, 3, 4}, {1, 2, 1, 2, 4}}) {
    FakeRuntime runtime;
    BitplaneCase test(/*is_dense=*/true);
    test.input_shape = shape;
    const int input = test.AddTo(&runtime);
    runtime.Register(*KerasqRegister_BITPLANE_DENSE());
    ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
    std::vector<int> expected_shape = shape;
    expected_shape.back() = 6;
    EXPECT_EQ(runtime.Shape(input + 1), expected_shape);
    int rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    std::mt19937 random(2);
    const std::vector<float> x = RandomFloats(&random, rows * 4);
    std::copy(x.begin(), x.end(), runtime.Floats(input));
    ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
    const ConvGeometry geometry = {rows, 1, 1, 4, 1, 1, 6, 1, 1, 1, 1, 1, 1, 0, 0, 1};
    ExpectNear(runtime.Floats(input + 1), test.Expect(x, geometry));
  }
}

// A dense codebook operator of 3 codewords of length 2, on 5 channels.
struct CodebookCase {
  Values options = {{"version", 1},   {"activation", 2}, {"channels_out", 4}, {"subvector", 2},
                    {"codewords", 3}, {"bits", 2},       {"tables", 0},       {"order", 0}};
  std::vector<uint8_t> indices = {0b10010010, 0b00011000, 0b01100001};
  std::vector<float> codewords, multiplier = {0.5f}, bias = {1, 2, 3, 4};
  bool half = false;

  CodebookCase() {
    std::mt19937 random(4);
    codewords = RandomFloats(&random, 3 * 3 * 2);
  }

  int AddTo(FakeRuntime* runtime) const {
    const int input = runtime->AddTensor(kTfLiteFloat32, {2, 5});
    const int output = runtime->AddTensor(kTfLiteFloat32, {1});
    const std::vector<uint16_t> halves(18, 0x3c00);  // ones
    const int book = half ? runtime->AddConstant(kTfLiteFloat16, {3, 3, 2}, halves)
                          : runtime->AddConstant(kTfLiteFloat32, {3, 3, 2}, codewords);
    const std::vector<int> inputs = {input, book,
                                     runtime->AddConstant(kTfLiteUInt8, {1, 3, 1}, indices),
                                     runtime->AddConstant(kTfLiteFloat32, {1}, multiplier),
                                     runtime->AddConstant(kTfLiteFloat32, {4}, bias)};
    runtime->AddNode("KerasqCodebookDense", inputs, output, EncodeOptions(options));
    return input;
  }
};

TEST(Operators, CodebookDenseMatchesItsMeaning) {
  for (bool half : {false, true}) {
    FakeRuntime runtime;
    CodebookCase test;
    test.half = half;
    const int input = test.AddTo(&runtime);
    runtime.Register(*KerasqRegister_CODEBOOK_DENSE());
    ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
    std::mt19937 random(6);
    const std::vector<float> x = RandomFloats(&random, 10);
    std::copy(x.begin(), x.end(), runtime.Floats(input));
    ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
    std::vector<float> expected;
    for (int row = 0; row < 2; ++row) {
      for (int c = 0; c < 4; ++c) {
        float sum = 0;
        for (int i = 0; i < 5; ++i) {
          const int index = test.indices[i / 2] >> (2 * c) & 3;
          const float w = half ? 1.0f : test.codewords[(i / 2 * 3 + index) * 2 + i % 2];
          sum += x[row * 5 + i] * w;
        }
        expected.push_back(std::min(std::max(0.5f * sum + test.bias[c], 0.0f), 6.0f));
      }
    }
    ExpectNear(runtime.Floats(input + 1), expected);
  }
}

TEST(Operators, MalformedBitplanesGiveMessages) {
  const std::pair<std::function<void(FakeRuntime*, int input)>, const char*> damages[] = {
      {[](FakeRuntime* r, int i) { r->tensors[i].type = kTfLiteInt8; },
       "KerasqBitplaneConv2D: its input has type int8, expected float32"},
      {[](FakeRuntime* r, int i) { r->tensors[i + 1].type = kTfLiteInt8; }, "output has type int8"},
      {[](FakeRuntime* r, int i) {
         r->Resize(i, {2, 5, 6});
       },
       "its input has shape [2, 5, 6]"},
      {[](FakeRuntime* r, int i) {
         r->Resize(i, {2, 5, 6, 6});
       },
       "planes has shape [1, 6, 3]"},
      {[](FakeRuntime* r, int i) {
         r->Resize(i, {2, 5, 6, 0});
       },
       "its input has no channels"},
      {[](FakeRuntime* r, int i) { r->tensors[i].dims->data[1] = -5; }, "dimension is negative"},
      {[](FakeRuntime* r, int i) { r->tensors[i].dims->data[1] = 1 << 30; }, "2^31 - 1 elements"},
      {[](FakeRuntime* r, int i) { r->tensors[i + 2].allocation_type = kTfLiteArenaRw; },
       "planes must be a constant"},
      {[](FakeRuntime* r, int i) { r->tensors[i + 2].data.data = nullptr; },
       "planes must be a constant"},
      {[](FakeRuntime* r, int i) { r->tensors[i + 2].bytes = 9; }, "planes stores 9 bytes"},
      {[](FakeRuntime* r, int i) { r->tensors[i + 3].data.uint8 += 1; }, "is not aligned"},
      {[](FakeRuntime* r, int) { r->nodes[0].node.inputs->data[3] = 99; }, "3 is missing"},
      {[](FakeRuntime* r, int) { r->nodes[0].node.inputs->size = 0; }, "it has 0 inputs"},
      {[](FakeRuntime* r, int) { r->nodes[0].node.outputs->size = 0; }, "it has 0 outputs"},
  };
  for (const auto& [damage, message] : damages) {
    FakeRuntime runtime;
    const int input = BitplaneCase().AddTo(&runtime);
    runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
    damage(&runtime, input);
    EXPECT_EQ(runtime.Prepare(), kTfLiteError) << message;
    EXPECT_NE(runtime.errors.find(message), std::string::npos) << runtime.errors;
    EXPECT_EQ(runtime.Invoke(), kTfLiteError);
  }
}

TEST(Operators, OptionsThatOverflowGiveMessages) {
  const std::pair<Values, const char*> damages[] = {
      {{{"stride_h", 0}}, "'stride_h' is 0"},
      {{{"kernel_h", INT32_MAX}}, "'kernel_h' is 2147483647"},
      {{{"kernel_h", 1 << 20}, {"kernel_w", 1 << 20}}, "a kernel of more than 2^30 elements"},
      {{{"kernel_h", 1 << 20}, {"dilation_h", 1 << 20}}, "spans more than"},
      {{{"padding", 1}, {"dilation_w", 3}}, "feed a larger input"},
      {{{"version", 3}}, "update kerasq"},
      {{{"weight_planes", 9}}, "'weight_planes' is 9, expected 1 to 8"},
  };
  for (const auto& [changes, message] : damages) {
    FakeRuntime runtime;
    BitplaneCase test;
    for (const auto& change : changes) test.options[change.first] = change.second;
    test.AddTo(&runtime);
    runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
    EXPECT_EQ(runtime.Prepare(), kTfLiteError) << message;
    EXPECT_NE(runtime.errors.find(message), std::string::npos) << runtime.errors;
  }
}

TEST(Operators, InputsWhoseSizesOverflowGiveMessages) {
  const std::tuple<std::vector<int>, Values, const char*> damages[] = {
      // A kernel of 2^63 bits.
      {{1, 1, 1, 1 << 23},
       {{"kernel_h", 1 << 20}, {"kernel_w", 1 << 20}, {"groups", 1}},
       "a kernel of more than 2^30 elements"},
      // No pixels, but 3 * 2^30 rows, and an output of padding.
      {{3, 1 << 30, 0, 4},
       {{"stride_h", 1 << 20},
        {"padding", 2},
        {"pad_top", 0},
        {"pad_bottom", 0},
        {"pad_left", 2},
        {"pad_right", 2}},
       "has shape [3, 1073741824, 0, 4]: more than 2^31 - 1"},
  };
  for (const auto& [shape, changes, message] : damages) {
    FakeRuntime runtime;
    BitplaneCase test;
    test.input_shape = {1, 1, 1, 1};
    for (const auto& change : changes) test.options[change.first] = change.second;
    const int input = test.AddTo(&runtime);
    std::copy(shape.begin(), shape.end(), runtime.tensors[input].dims->data);
    runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
    EXPECT_EQ(runtime.Prepare(), kTfLiteError) << message;
    EXPECT_NE(runtime.errors.find(message), std::string::npos) << runtime.errors;
  }
}

// The refused input has as many bytes as the one before, but its output has more.
TEST(Operators, DoNotRunAfterAPreparationThatFailed) {
  FakeRuntime runtime;
  const int input = BitplaneCase().AddTo(&runtime), output = input + 1;
  runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
  const int scratch = static_cast<int>(runtime.tensors.size()) - 1;
  for (int refused : {output, scratch}) {
    runtime.refused = -1;
    runtime.Resize(input, {2, 5, 6, 4});
    ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
    ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
    runtime.refused = refused;
    runtime.Resize(input, {2, 3, 10, 4});
    ASSERT_EQ(runtime.Prepare(), kTfLiteError);
    EXPECT_EQ(runtime.Invoke(), kTfLiteError);
    EXPECT_NE(runtime.errors.find("it has not been prepared"), std::string::npos);
    runtime.errors.clear();
  }
}

TEST(Operators, DoNotRunInScratchOfAnotherSize) {
  FakeRuntime runtime;
  BitplaneCase().AddTo(&runtime);
  runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  runtime.Resize(static_cast<int>(runtime.tensors.size()) - 1, {1, 64});
  EXPECT_EQ(runtime.Invoke(), kTfLiteError);
  EXPECT_NE(runtime.errors.find("changed their sizes"), std::string::npos);
}

TEST(Operators, ReportThatMemoryRunsOut) {
  int count = 0;
  for (bool failed = true; failed; ++count) {
    FakeRuntime runtime;
    BitplaneCase().AddTo(&runtime);
    const TfLiteRegistration& registration = *KerasqRegister_BITPLANE_CONV_2D();
    failed = RunsOutOfMemory(count, [&] { runtime.Register(registration); });
    EXPECT_EQ(runtime.nodes[0].node.user_data == nullptr, failed);
    EXPECT_EQ(runtime.errors.empty(), !failed);
  }
  EXPECT_GT(count, 3);
  FakeRuntime runtime;
  BitplaneCase().AddTo(&runtime);
  runtime.Register(*KerasqRegister_BITPLANE_CONV_2D());
  TfLiteStatus status = kTfLiteOk;
  for (count = 0; RunsOutOfMemory(count, [&] { status = runtime.Prepare(); }); ++count) {
    EXPECT_EQ(status, kTfLiteError) << count;
    EXPECT_EQ(runtime.Invoke(), kTfLiteError);
  }
  EXPECT_GT(count, 3);
  EXPECT_EQ(status, kTfLiteOk);
  EXPECT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
}

TEST(Operators, AnIndexPastTheCodebookGivesAMessage) {
  FakeRuntime runtime;
  CodebookCase test;
  test.indices[1] = 0xff;
  test.AddTo(&runtime);
  runtime.Register(*KerasqRegister_CODEBOOK_DENSE());
  EXPECT_EQ(runtime.Prepare(), kTfLiteError);
  EXPECT_NE(runtime.errors.find("KerasqCodebookDense: "), std::string::npos);
}

// A dense layer of 3 inputs and 4 outputs with 4 entries: a gap and the number of a codeword each.
struct SparseCase {
  Values options = {{"version", 1},   {"activation", 0}, {"channels_out", 4}, {"channels_in", 3},
                    {"codewords", 3}, {"gap_bits", 2},   {"entries", 4}};
  std::vector<float> codewords = {0, 2, -1}, multiplier = {0.5f}, bias = {1, 2, 3, 4};
  std::vector<uint8_t> gaps = {0b11110010}, gap_lengths = {0x22, 0x22};  // 1, 0, 3, 3
  std::vector<uint8_t> codes = {0b110110}, code_lengths = {0x12, 0x02};  // 1, 2, 1, 2

  int AddTo(FakeRuntime* runtime) const {
    const auto bytes = [&](const std::vector<uint8_t>& values) {
      return runtime->AddConstant(kTfLiteUInt8, {static_cast<int>(values.size())}, values);
    };
    const int input = runtime->AddTensor(kTfLiteFloat32, {2, 3});
    const int output = runtime->AddTensor(kTfLiteFloat32, {1});
    const std::vector<int> inputs = {input,
                                     runtime->AddConstant(kTfLiteFloat32, {3}, codewords),
                                     bytes(gaps),
                                     bytes(gap_lengths),
                                     bytes(codes),
                                     bytes(code_lengths),
                                     runtime->AddConstant(kTfLiteFloat32, {1}, multiplier),
                                     runtime->AddConstant(kTfLiteFloat32, {4}, bias)};
    runtime->AddNode("KerasqSparseDense", inputs, output, EncodeOptions(options));
    return input;
  }
};

TEST(Operators, SparseDenseMatchesItsMeaning) {
  FakeRuntime runtime;
  const int input = SparseCase().AddTo(&runtime);
  runtime.Register(*KerasqRegister_SPARSE_DENSE());
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  const std::vector<float> x = {1, 2, 3, -4, 5, 6};
  std::copy(x.begin(), x.end(), runtime.Floats(input));
  ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
  std::vector<float> expected;
  for (const float* row = x.data(); row != x.data() + 6; row += 3) {
    const float sums[] = {2 * row[1] - row[2], 0, 2 * row[0], -row[1]};
    for (int c = 0; c < 4; ++c) expected.push_back(0.5f * sums[c] + 1 + c);
  }
  ExpectNear(runtime.Floats(input + 1), expected);
}

TEST(Operators, MalformedSparseStreamsGiveMessages) {
  const std::pair<std::function<void(SparseCase*)>, const char*> damages[] = {
      {[](SparseCase* c) { c->options["entries"] = 5; }, "gaps: it has 1 bytes, too few"},
      {[](SparseCase* c) { c->codes.push_back(0); }, "codes: it has 2 bytes, too many"},
      {[](SparseCase* c) { c->gaps = {0xff}; }, "gaps: entry 3 lies past its 12 weights"},
      {[](SparseCase* c) {
         c->gap_lengths = {0x22, 0x12};
       },
       "gaps: its Huffman code is over-"},
      {[](SparseCase* c) {
         c->code_lengths = {0x22, 0x02};
       },
       "codes: its Huffman code is incom"},
      {[](SparseCase* c) { c->code_lengths = {0x12}; }, "codes' lengths has shape [1]"},
      {[](SparseCase* c) { c->codewords[0] = 1; }, "the first codeword must be 0"},
      {[](SparseCase* c) { c->options["channels_in"] = 2; }, "of 2 input channels a group"},
  };
  for (const auto& [damage, message] : damages) {
    FakeRuntime runtime;
    SparseCase test;
    damage(&test);
    test.AddTo(&runtime);
    runtime.Register(*KerasqRegister_SPARSE_DENSE());
    EXPECT_EQ(runtime.Prepare(), kTfLiteError) << message;
    EXPECT_NE(runtime.errors.find(message), std::string::npos) << runtime.errors;
  }
}

TEST(Operators, HashedDenseMatchesTheWorkedExample) {
  FakeRuntime runtime;
  std::vector<float> values(16);
  for (int n = 0; n < 16; ++n) values[n] = static_cast<float>(n);
  const int input = runtime.AddTensor(kTfLiteFloat32, {4, 4});
  const int output = runtime.AddTensor(kTfLiteFloat32, {1});
  const std::vector<float> one = {1}, zero = {0};
  const std::vector<int> inputs = {input, runtime.AddConstant(kTfLiteFloat32, {16}, values),
                                   runtime.AddConstant(kTfLiteFloat32, {1}, one),
                                   runtime.AddConstant(kTfLiteFloat32, {1}, zero)};
  const Values options = {{"version", 1},     {"activation", 0}, {"channels_out", 3},
                          {"channels_in", 4}, {"buckets", 16},   {"seed", 2}};
  runtime.AddNode("KerasqHashedDense", inputs, output, EncodeOptions(options));
  runtime.Register(*KerasqRegister_HASHED_DENSE());
  ASSERT_EQ(runtime.Prepare(), kTfLiteOk) << runtime.errors;
  for (int i = 0; i < 16; ++i) runtime.Floats(input)[i] = i % 5 == 0;  // the weights, a row each
  ASSERT_EQ(runtime.Invoke(), kTfLiteOk) << runtime.errors;
  ExpectNear(runtime.Floats(output), {-4, -3, 6, -11, -14, -10, 13, -3, 14, -13, -1, 12});
}

}  // namespace
}  // namespace kerasq
