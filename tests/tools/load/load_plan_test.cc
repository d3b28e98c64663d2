#include "tools/load/load_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace choir {
namespace {

TEST(LoadPlanTest, ReadsANumberAndARange) {
  const auto one = ReadLengthRange("512", 1000);
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->min, 512);
  EXPECT_EQ(one->max, 512);
  const auto range = ReadLengthRange("1..1000", 1000);
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->min, 1);
  EXPECT_EQ(range->max, 1000);
}

TEST(LoadPlanTest, RefusesWhatIsNoRange) {
  for (const char* text : {"", "0", "-1", "x", "5x", "3..2", "1..", "..4", "1..1001", "1...3"}) {
    EXPECT_FALSE(ReadLengthRange(text, 1000).ok()) << text;
  }
}

TEST(LoadPlanTest, ASeedGivesTheSamePlanAndAnotherSeedAnother) {
  LoadShape shape{
      .requests = 20, .arrival = Arrival::kPoisson, .prompt = {5, 50}, .output = {1, 9}};
  const auto first = PlanLoad(shape);
  const auto again = PlanLoad(shape);
  shape.seed = 2;
  const auto other = PlanLoad(shape);
  ASSERT_EQ(first.size(), 20u);
  bool differs = false;
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].at_seconds, again[i].at_seconds);
    EXPECT_EQ(first[i].prompt, again[i].prompt);
    EXPECT_EQ(first[i].output, again[i].output);
    differs = differs || first[i].prompt != other[i].prompt;
  }
  EXPECT_TRUE(differs);
}

TEST(LoadPlanTest, LengthsStayInTheirRangesAndReachBothEnds) {
  const auto plan = PlanLoad({.requests = 500, .prompt = {3, 6}, .output = {2, 4}});
  const auto by_prompt = [](const auto& a, const auto& b) {
    return a.prompt.size() < b.prompt.size();
  };
  const auto by_output = [](const auto& a, const auto& b) { return a.output < b.output; };
  const auto [short_prompt, long_prompt] = std::minmax_element(plan.begin(), plan.end(), by_prompt);
  const auto [short_output, long_output] = std::minmax_element(plan.begin(), plan.end(), by_output);
  EXPECT_EQ(short_prompt->prompt.size(), 3u);
  EXPECT_EQ(long_prompt->prompt.size(), 6u);
  EXPECT_EQ(short_output->output, 2);
  EXPECT_EQ(long_output->output, 4);
}

TEST(LoadPlanTest, PromptsShareTheirFirstTokensAndNoMore) {
  const auto plan =
      PlanLoad({.requests = 2, .prompt = {40, 40}, .output = {1, 1}, .shared_prefix = 30});
  const auto& a = plan[0].prompt;
  const auto& b = plan[1].prompt;
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 30, b.begin()));
  EXPECT_NE(a, b);
}

TEST(LoadPlanTest, ConstantArrivalsAreEvenAndPoissonArrivalsHaveTheRate) {
  LoadShape shape{.requests = 4000,
                  .arrival = Arrival::kConstant,
                  .rate = 8,
                  .prompt = {1, 1},
                  .output = {1, 1}};
  EXPECT_DOUBLE_EQ(PlanLoad(shape)[16].at_seconds, 2.0);
  shape.arrival = Arrival::kPoisson;
  const auto plan = PlanLoad(shape);
  EXPECT_NEAR(plan.back().at_seconds, 4000 / 8.0, 30);  // four standard deviations: 31
  EXPECT_TRUE(std::is_sorted(plan.begin(), plan.end(), [](const auto& a, const auto& b) {
    return a.at_seconds < b.at_seconds;
  }));
}

}  // namespace
}  // namespace choir
