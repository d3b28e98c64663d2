#include "worker/model/config/rope.h"

#include <gtest/gtest.h>

#include <cmath>

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
