#include "tests/golden/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace choir::golden {
namespace {

TEST(Golden, HoldsEveryFamily) {
  EXPECT_THAT(Names(), testing::IsSupersetOf(
                           {"tiny_llama",       "llama_biased",      "tiny_glm4_moe",
                            "glm4_moe_biased",  "deepseek_v2_lite",  "deepseek_v2_grouped",
                            "deepseek_v3_yarn", "deepseek_v3_plain", "deepseek_v3_half_split",
                            "qwen2_sliding",    "qwen2_layer_types", "qwen3_yarn",
                            "qwen3_moe_sparse", "qwen3_moe_window",  "mixtral_window",
                            "mixtral_wide",     "qwen3_moe_f16",     "qwen3_moe_fp8",
                            "deepseek_v3_fp8",  "gpt_oss_bf16",      "gpt_oss_mxfp4"}));
}

TEST(Golden, ExpectationsAreComplete) {
  for (const std::string& name : Names()) {
    const Checkpoint c = Load(name);
    ASSERT_EQ(c.prompts.size(), 3u) << name;
    for (const Prompt& p : c.prompts) {
      EXPECT_EQ(p.greedy.size(), 64u) << name;
      EXPECT_EQ(p.positions.back(), static_cast<int32_t>(p.ids.size()) - 1) << name;
      ASSERT_EQ(p.logits.size(), p.positions.size()) << name;
      for (const auto& row : p.logits) EXPECT_EQ(row.size(), static_cast<size_t>(c.vocab)) << name;
      // The best logit of the last position is the first greedy token.
      const auto& last = p.logits.back();
      EXPECT_EQ(std::max_element(last.begin(), last.end()) - last.begin(), p.greedy[0]) << name;
      const bool dense = c.family == "llama" || c.family == "qwen2" || c.family == "qwen3";
      EXPECT_EQ(p.experts.empty(), dense) << name;
      for (const LayerRoutes& layer : p.experts) EXPECT_EQ(layer.ids.size(), p.ids.size()) << name;
    }
  }
}

TEST(Golden, RelativeErrorIsOfTheLargestExpectationAndKeepsNaN) {
  EXPECT_FLOAT_EQ(RelativeError({1.0f, -4.5f}, {1.0f, -5.0f}), 0.1f);
  EXPECT_TRUE(std::isnan(RelativeError({std::numeric_limits<float>::quiet_NaN(), 1.0f}, {1, 1})));
}

}  // namespace
}  // namespace choir::golden
