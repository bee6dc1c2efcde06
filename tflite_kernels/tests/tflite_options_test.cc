#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/tflite_fake_runtime.h"
#include "tflite/options.h"

namespace kerasq {
namespace {

using Values = std::map<std::string, int64_t>;

Status Parse(const std::string& bytes, Options* options) {
  // A copy of exactly this size, so that a sanitizer sees any read beyond it.
  const std::vector<char> exact(bytes.begin(), bytes.end());
  return Options::Parse(exact.data(), exact.size(), options);
}

TEST(Options, ReadsWhatTheConverterWrites) {
  const char bytes[] = "stride_h\x00\x01\n\x01\x01\x01\x02\x04\x02$\x01";
  Options options;
  ASSERT_TRUE(Parse(std::string(bytes, sizeof(bytes) - 1), &options).ok());
  int stride = 0;
  ASSERT_TRUE(options.Get("stride_h", 1, 8, &stride).ok());
  EXPECT_EQ(stride, 2);
  EXPECT_FALSE(options.Has("stride_w"));
}

TEST(Options, ReadsEveryWidth) {
  const Values values = {{"activation", 0}, {"pad", -3}, {"version", 1}, {"wide", 100}};
  for (int width : {1, 2, 4, 8}) {
    Options options;
    ASSERT_TRUE(Parse(EncodeOptions(values, width), &options).ok()) << width;
    for (const auto& entry : values) {
      int value = -1;
      ASSERT_TRUE(options.Get(entry.first.c_str(), -5, 200, &value).ok());
      EXPECT_EQ(value, entry.second);
    }
  }
}

TEST(Options, ReadsBooleansAndUnsigned) {
  for (char type : {char(2 << 2), char(26 << 2)}) {
    std::string bytes("flag\x00\x01\x06\x01\x01\x01\x01\x04\x02$\x01", 15);
    bytes[11] = type;
    Options options;
    ASSERT_TRUE(Parse(bytes, &options).ok());
    int flag = 0;
    EXPECT_TRUE(options.Get("flag", 0, 1, &flag).ok());
    EXPECT_EQ(flag, 1);
  }
}

TEST(Options, SaysWhatIsWrong) {
  Options options;
  ASSERT_TRUE(Parse(EncodeOptions({{"stride", int64_t{1} << 40}}, 8), &options).ok());
  int value;
  EXPECT_EQ(options.Get("groups", 1, 9, &value).message(), "its option 'groups' is missing");
  EXPECT_EQ(options.Get("stride", 1, 9, &value).message(),
            "its option 'stride' is 1099511627776, expected 1 to 9");
  EXPECT_NE(Parse("", &options).message().find("no custom options"), std::string::npos);
}

TEST(Options, RefusesEveryTruncation) {
  for (int width : {1, 2, 4, 8}) {
    const std::string bytes = EncodeOptions({{"a", 1}, {"kernel", 3}, {"version", 1}}, width);
    for (size_t size = 0; size < bytes.size(); ++size) {
      Options options;
      EXPECT_FALSE(Parse(bytes.substr(0, size), &options).ok()) << width << " " << size;
    }
  }
}

TEST(Options, SurvivesRandomDamage) {
  std::mt19937 random(1);
  const std::string good = EncodeOptions({{"a", 1}, {"kernel", 3}, {"version", 1}}, 2);
  for (int trial = 0; trial < 20000; ++trial) {
    std::string bytes = good;
    for (unsigned i = 0; i <= random() % 4; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    bytes.erase(0, random() % 3);
    Options options;
    const Status status = Parse(bytes, &options);
    EXPECT_EQ(status.ok(), status.message().empty());
  }
}

TEST(Options, RefusesKeysTwice) {
  Options options;
  std::string bytes = EncodeOptions({{"a", 1}, {"b", 2}}, 1);
  bytes[bytes.find('b')] = 'a';
  EXPECT_NE(Parse(bytes, &options).message().find("'a' occurs twice"), std::string::npos);
}

}  // namespace
}  // namespace kerasq
