#include "worker/model/config/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace choir {
namespace {

TEST(Rope, YarnOfDeepseekScalesScoresAndNotTheTables) {
  RopeConfig rope{.type = RopeConfig::Type::kYarn, .factor = 40, .mscale_all_dim = 1.0};
  const double m = 0.1 * std::log(40.0) + 1.0;
  EXPECT_DOUBLE_EQ(rope.SoftmaxFactor(), m * m);
  EXPECT_DOUBLE_EQ(rope.table_scale, 1.0);
  rope.mscale_all_dim = 0;
  EXPECT_DOUBLE_EQ(rope.SoftmaxFactor(), 1.0);
}

TEST(Rope, YarnKeepsFastFrequenciesAndDividesSlowOnes) {
  const RopeConfig yarn{
      .type = RopeConfig::Type::kYarn, .rotary_dim = 64, .factor = 40, .original_positions = 4096};
  const std::vector<float> plain = RopeFrequencies({.rotary_dim = 64});
  const std::vector<float> scaled = RopeFrequencies(yarn);
  EXPECT_FLOAT_EQ(scaled.front(), plain.front());
  EXPECT_FLOAT_EQ(scaled.back(), plain.back() / 40);
}

TEST(Rope, Llama3LeavesShortWavesAndDividesLongOnes) {
  const RopeConfig rope{.type = RopeConfig::Type::kLlama3,
                        .theta = 500000,
                        .rotary_dim = 128,
                        .factor = 8,
                        .original_positions = 8192};
  const std::vector<float> plain = RopeFrequencies({.theta = 500000, .rotary_dim = 128});
  const std::vector<float> scaled = RopeFrequencies(rope);
  EXPECT_FLOAT_EQ(scaled.front(), plain.front());
  EXPECT_FLOAT_EQ(scaled.back(), plain.back() / 8);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 8.001f);
  }
}

RopeConfig Read(const nlohmann::json& config) {
  ConfigReader reader(config, "config.json");
  const RopeConfig rope = ReadRope(&reader, 32, 1024, {.theta = 5000});
  EXPECT_TRUE(reader.status().ok()) << reader.status();
  return rope;
}

TEST(Rope, LinearDividesEveryFrequency) {
  const std::vector<float> plain = RopeFrequencies(Read({}));
  const std::vector<float> scaled =
      RopeFrequencies(Read({{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}));
  ASSERT_EQ(plain.size(), 16u);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_FLOAT_EQ(scaled[i], plain[i] / 4);
}

// docs/decisions/0007-dynamic-rope.md
TEST(Rope, DynamicIsDefaultWithinTheContext) {
  const RopeConfig rope = Read({{"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}});
  EXPECT_EQ(RopeFrequencies(rope), RopeFrequencies(Read({})));
  EXPECT_EQ(rope.table_scale, 1.0);
}

TEST(Rope, YarnsAttentionFactorMayBeGiven) {
  nlohmann::json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"mscale", 0.7}};
  const auto scale = [&] { return Read({{"rope_parameters", yarn}}).table_scale; };
  EXPECT_DOUBLE_EQ(scale(), 0.1 * std::log(4.0) + 1);
  yarn["mscale_all_dim"] = 0.7;
  EXPECT_DOUBLE_EQ(scale(), 1.0);
  yarn["attention_factor"] = 1.25;
  EXPECT_DOUBLE_EQ(scale(), 1.25);
  yarn["attention_factor"] = nullptr;
  EXPECT_DOUBLE_EQ(scale(), 1.0);
}

TEST(Rope, TheContextStandsForAnAbsentOriginalLength) {
  const nlohmann::json yarn = {{"type", "yarn"}, {"factor", 4.0}};
  nlohmann::json given = yarn;
  given["original_max_position_embeddings"] = 64;
  EXPECT_EQ(Read({{"rope_scaling", yarn}}).original_positions, 1024);
  EXPECT_EQ(Read({{"rope_scaling", given}}).original_positions, 64);
  EXPECT_EQ(
      Read({{"rope_scaling", given}, {"original_max_position_embeddings", 32}}).original_positions,
      32);
  given.erase("factor");
  EXPECT_EQ(Read({{"rope_scaling", given}}).factor, 16);  // 1024 / 64
}

TEST(Rope, ThetaIsTheInnerKeyThenTheOuterThenTheFamilys) {
  EXPECT_EQ(Read({}).theta, 5000);
  EXPECT_EQ(Read({{"rope_theta", 7.0}}).theta, 7);
  EXPECT_EQ(Read({{"rope_theta", 7.0}, {"rope_scaling", nullptr}}).theta, 7);
  EXPECT_EQ(Read({{"rope_theta", 7.0}, {"rope_parameters", {{"rope_theta", 9.0}}}}).theta, 9);
}

TEST(Rope, TablesHoldCosineAndSineOfThePosition) {
  const RopeConfig rope{.rotary_dim = 4, .table_scale = 2.0};
  std::vector<float> cos(6), sin(6);
  FillRopeTables(rope, 0, 1, cos, sin);
  FillRopeTables(rope, 1, 3, cos, sin);
  EXPECT_FLOAT_EQ(cos[0], 2.0f);
  EXPECT_FLOAT_EQ(sin[0], 0.0f);
  EXPECT_FLOAT_EQ(cos[4], 2.0f * std::cos(2.0f));
  EXPECT_FLOAT_EQ(sin[5], 2.0f * std::sin(2.0f * 0.01f));
}

}  // namespace
}  // namespace choir
