#include "core/reference.h"
#include "core_test_util.h"

namespace kerasq {
namespace {

// Owns the arrays that BitplaneWeights points to.
struct Model {
  Model(Random& random, const ConvGeometry& g, int weight_planes, int input_planes, bool integers) {
    w.weight_planes = weight_planes;
    w.input_planes = input_planes;
    w.pad_value = random.Int(0, 1);
    w.activation = integers ? Activation::kNone : static_cast<Activation>(random.Int(0, 2));
    planes = random.Bytes(static_cast<size_t>(weight_planes) * g.out_c *
                          CeilDiv64(static_cast<int64_t>(g.taps()) * g.group_in(), 8));
    w.basis_rows = weight_planes + (integers ? 0 : random.Int(0, 1));
    w.basis_cols = random.Int(0, 1) ? g.out_c : 1;
    basis = random.Floats(static_cast<size_t>(w.basis_rows) * w.basis_cols);
    w.bias_size = random.Int(0, 1) ? g.out_c : 1;
    bias = random.Floats(w.bias_size);
    const int codes = 1 << input_planes;
    const int levels = codes > 2 ? random.Int(1, codes - 1) : codes - 1;
    w.num_thresholds = levels;
    w.threshold_rows = random.Int(0, 1) ? g.in_c : 1;
    thresholds = random.Floats(static_cast<size_t>(w.threshold_rows) * levels);
    for (int i = 0; levels > 0 && i < w.threshold_rows; ++i) {
      std::sort(thresholds.begin() + i * levels, thresholds.begin() + (i + 1) * levels);
    }
    w.direction_size = random.Int(0, 1) ? g.in_c : 1;
    for (int i = 0; i < w.direction_size; ++i) direction.push_back(random.Int(0, 1) ? 1.f : -1.f);
    for (int i = 0; i <= levels; ++i) level_bits.push_back(random.Int(0, codes - 1));
    w.input_basis_size = input_planes + (integers ? 0 : random.Int(0, 1));
    input_basis = random.Floats(w.input_basis_size);
    if (integers) {
      std::fill(basis.begin(), basis.end(), 1.0f);
      std::fill(bias.begin(), bias.end(), 0.0f);
      std::fill(input_basis.begin(), input_basis.end(), 1.0f);
    }
    w.planes = planes.data();
    w.basis = basis.data();
    w.bias = bias.data();
    w.thresholds = thresholds.data();
    w.direction = direction.data();
    w.level_bits = level_bits.data();
    w.input_basis = input_basis.data();
  }

  BitplaneWeights w{};
  std::vector<uint8_t> planes, level_bits;
  std::vector<float> basis, bias, thresholds, direction, input_basis;
};

void Compare(const ConvGeometry& g, const Model& model, Random& random, float tolerance) {
  const std::vector<float> input =
      random.Floats(static_cast<size_t>(g.batch) * g.in_h * g.in_w * g.in_c);
  std::vector<float> expected(static_cast<size_t>(g.batch) * g.out_h * g.out_w * g.out_c);
  ReferenceBitplaneConv(g, model.w, input.data(), expected.data());
  for (const std::string& isa : Isas()) {
    setenv("KERASQ_ISA", isa.c_str(), 1);
    std::string error;
    const auto op = MakeBitplaneConv(g, model.w, &error);
    ASSERT_NE(op, nullptr) << error;
    EXPECT_NE(std::string(op->kernel_name(g)).find(isa), std::string::npos);
    for (int threads = 1; threads <= 3; threads += 2) {
      ExpectClose(RunOperator(*op, g, input, threads), expected, tolerance,
                  isa + ", " + std::to_string(model.w.weight_planes) + "x" +
                      std::to_string(model.w.input_planes) + " planes, " + Describe(g));
    }
  }
  unsetenv("KERASQ_ISA");
}

TEST(BitplaneConv, BinaryIntegersAreExact) {
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    const ConvGeometry g = RandomGeometry(random, i % 4 == 0 ? 150 : 40);
    Compare(g, Model(random, g, 1, 1, true), random, 0.0f);
  }
}

TEST(BitplaneConv, EveryNumberOfPlanesMatchesTheReference) {
  Random random(2);
  for (int i = 0; i < 60; ++i) {
    const ConvGeometry g = RandomGeometry(random, 30);
    Compare(g, Model(random, g, 1 + i % 3, i % 6, false), random, 2e-5f);
  }
}

TEST(BitplaneConv, Depthwise) {
  Random random(3);
  for (int planes = 0; planes < 3; ++planes) {
    ConvGeometry g = RandomGeometry(random, 5);
    g.in_c = g.groups = 13;
    g.out_c = 26;
    Compare(g, Model(random, g, 1, planes, false), random, 2e-5f);
  }
}

TEST(BitplaneConv, LongRowsDoNotOverflowByteCounters) {
  // Every bit differs: 3 * 3 * 1000 differences a row, 8 a byte and step.
  Random random(4);
  for (int channels : {64 * 31, 64 * 32, 64 * 61 + 5}) {
    const ConvGeometry g{1, 3, 3, channels, 1, 1, 5, 3, 3, 1, 1, 1, 1, 0, 0, 1};
    Model model(random, g, 1, 1, true);
    std::fill(model.planes.begin(), model.planes.end(), 0);
    std::fill(model.thresholds.begin(), model.thresholds.end(), -100.0f);
    std::fill(model.direction.begin(), model.direction.end(), 1.0f);
    model.level_bits = {0, 1};
    model.w.level_bits = model.level_bits.data();
    Compare(g, model, random, 0.0f);
  }
}

TEST(BitplaneConv, NotANumberIsTheLowestLevel) {
  Random random(5);
  const ConvGeometry g{1, 1, 1, 70, 1, 1, 3, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  Model model(random, g, 1, 1, true);
  std::vector<float> output(3), expected(3);
  const std::vector<float> input(70, NAN), low(70, -INFINITY);
  std::fill(model.direction.begin(), model.direction.end(), 1.0f);
  ReferenceBitplaneConv(g, model.w, low.data(), expected.data());
  std::string error;
  const auto op = MakeBitplaneConv(g, model.w, &error);
  ASSERT_NE(op, nullptr) << error;
  EXPECT_EQ(RunOperator(*op, g, input, 1), expected);
}

TEST(BitplaneConv, RefusesValuesWithoutMeaning) {
  Random random(6);
  const ConvGeometry g{1, 1, 1, 8, 1, 1, 3, 1, 1, 1, 1, 1, 1, 0, 0, 1};
  std::string error;
  const auto refused = [&](Model& model, const char* why) {
    EXPECT_EQ(MakeBitplaneConv(g, model.w, &error), nullptr);
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  Model planes(random, g, 1, 1, false);
  planes.w.weight_planes = 9;
  refused(planes, "weight_planes");
  Model inputs(random, g, 1, 1, false);
  inputs.w.input_planes = 9;
  refused(inputs, "input_planes");
  Model many(random, g, 1, 2, false);
  many.w.num_thresholds = 4;
  refused(many, "1 to 3 thresholds");
  Model pad(random, g, 1, 1, false);
  pad.w.pad_value = 2;
  refused(pad, "pad_value");
  Model nan(random, g, 1, 2, false);
  nan.thresholds[0] = NAN;
  refused(nan, "not a number");
  Model order(random, g, 1, 2, false);
  order.w.num_thresholds = 2;
  order.thresholds = {1.0f, 0.5f, 1.0f, 0.5f, 1.0f, 0.5f, 1.0f, 0.5f,
                      1.0f, 0.5f, 1.0f, 0.5f, 1.0f, 0.5f, 1.0f, 0.5f};
  order.w.thresholds = order.thresholds.data();
  refused(order, "ascend");
  Model direction(random, g, 1, 1, false);
  direction.direction[0] = 0.5f;
  refused(direction, "direction");
  Model bits(random, g, 1, 1, false);
  bits.level_bits[1] = 2;
  refused(bits, "level_bits");
}

}  // namespace
}  // namespace kerasq
