#include "tools/model/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/model/gguf_builder.h"

namespace choir {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Q8Block(uint16_t scale, int8_t first) {
  std::string block;
  GgufBuilder::Put(&block, scale);
  for (int i = 0; i < 32; ++i) GgufBuilder::Put(&block, static_cast<int8_t>(first + i));
  return block;
}

std::string Small() {
  return GgufBuilder()
      .String("general.name", "small")
      .U32("count", 7)
      .F32("ratio", 0.5f)
      .Strings("words", {"a", "bc"})
      .I32s("kinds", {1, -3})
      .F32Tensor("norm", {3}, {1.0f, -2.0f, 0.25f})
      .Tensor("matrix", {32, 2}, 8, Q8Block(0x3c00, -16) + Q8Block(0x3800, 0))
      .Build();
}

TEST(Gguf, ReadsMetadataOfEveryKind) {
  const std::string bytes = Small();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(*gguf->String("general.name"), "small");
  EXPECT_EQ(*gguf->Integer("count"), 7);
  EXPECT_EQ(*gguf->Number("ratio"), 0.5);
  EXPECT_THAT(**gguf->Strings("words"), ElementsAre("a", "bc"));
  EXPECT_THAT(**gguf->Integers("kinds"), ElementsAre(1, -3));
}

TEST(Gguf, SaysWhichKeyIsMissingOrOfAnotherKind) {
  const std::string bytes = Small();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok());
  EXPECT_THAT(MessageOf(gguf->String("nothing").status()), HasSubstr("nothing"));
  EXPECT_EQ(gguf->Integer("general.name").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Gguf, DequantizesF32AndQ8WithTheSlowestAxisFirst) {
  const std::string bytes = Small();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok());
  const auto norm = gguf->Tensor("norm", {3});
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_THAT(Dequantize(**norm), ElementsAre(1.0f, -2.0f, 0.25f));
  const auto matrix = gguf->Tensor("matrix", {2, 32});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  const std::vector<float> values = Dequantize(**matrix);
  EXPECT_EQ(values[0], -16.0f);  // scale 1
  EXPECT_EQ(values[31], 15.0f);
  EXPECT_EQ(values[33], 0.5f);  // second row, scale 0.5
  EXPECT_THAT(MessageOf(gguf->Tensor("matrix", {32, 2}).status()), HasSubstr("[2, 32]"));
}

TEST(Gguf, DequantizesQ4WithLowNibblesFirst) {
  std::string block;
  GgufBuilder::Put<uint16_t>(&block, 0x4000);  // scale 2
  GgufBuilder::Put<uint16_t>(&block, 0xbc00);  // minimum -1
  for (int i = 0; i < 16; ++i) block.push_back(static_cast<char>(i | (15 - i) << 4));
  const std::string bytes = GgufBuilder().Tensor("t", {32}, 3, block).Build();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const std::vector<float> values = Dequantize(**gguf->Tensor("t", {32}));
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], 2.0f * static_cast<float>(i) - 1.0f);
    EXPECT_EQ(values[16 + i], 2.0f * static_cast<float>(15 - i) - 1.0f);
  }
}

TEST(Gguf, DequantizesHalfPrecisionWithSubnormals) {
  std::string halves;
  for (const uint16_t h : {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x3555, 0xfbff, 0x7c00}) {
    GgufBuilder::Put<uint16_t>(&halves, h);
  }
  const std::string bytes = GgufBuilder().Tensor("t", {8}, 1, halves).Build();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_THAT(Dequantize(**gguf->Tensor("t", {8})),
              ElementsAre(0.0f, -0.0f, 0x1p-24f, -0x3ffp-24f, 0x1p-14f, 0.333251953125f, -65504.0f,
                          std::numeric_limits<float>::infinity()));
}

TEST(Gguf, RefusesEveryCutOfAFile) {
  const std::string bytes = Small();
  ASSERT_TRUE(ParseGguf(bytes).ok());
  for (size_t size = 0; size < bytes.size() - 31; ++size) {  // the last block's padding may go
    const std::string cut = bytes.substr(0, size);
    EXPECT_EQ(ParseGguf(cut).status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

TEST(Gguf, SurvivesEveryChangedByte) {
  const std::string good = Small();
  for (size_t i = 0; i < good.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const auto gguf = ParseGguf(bad);
      if (!gguf.ok()) continue;
      if (const auto t = gguf->Tensor("matrix", {2, 32}); t.ok()) Dequantize(**t);
    }
  }
}

TEST(Gguf, RefusesHugeCountsAndShapesWithoutReservingMemory) {
  std::string bytes = Small();
  const uint64_t huge = uint64_t{1} << 60;
  std::memcpy(bytes.data() + 8, &huge, 8);
  EXPECT_THAT(MessageOf(ParseGguf(bytes).status()), HasSubstr("tensors"));
  const std::string shape =
      GgufBuilder().Tensor("t", {1u << 31, 1u << 31, 1u << 31}, 0, "").Build();
  EXPECT_THAT(MessageOf(ParseGguf(shape).status()), HasSubstr("does not fit"));
}

TEST(Gguf, RefusesUnknownTypesVersionsAndRaggedBlocks) {
  EXPECT_THAT(
      MessageOf(
          ParseGguf(GgufBuilder().Tensor("t", {32}, 12, std::string(64, 'x')).Build()).status()),
      HasSubstr("type 12"));
  EXPECT_THAT(
      MessageOf(
          ParseGguf(GgufBuilder().Tensor("t", {16, 2}, 8, std::string(64, 'x')).Build()).status()),
      HasSubstr("whole blocks"));
  std::string version = Small();
  version[4] = 9;
  EXPECT_THAT(MessageOf(ParseGguf(version).status()), HasSubstr("version 9"));
}

}  // namespace
}  // namespace choir
