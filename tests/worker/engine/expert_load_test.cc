#include "worker/engine/expert_load.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace choir {
namespace {

// Two layers of 16 experts, of which this rank has the second half.
ExpertCounts Counts() {
  ExpertCounts counts{.layers = {1, 3}, .num_experts = 16};
  counts.rows.resize(32);
  return counts;
}
PlacedExperts Placed() { return {.rank = 1, .layers = {2, ExpertPlacement(16, 2)}}; }

void AddEverywhere(uint64_t rows, ExpertCounts* counts) {
  for (size_t i = 0; i < 32; ++i) counts->rows[i] += i % 16 >= 8 ? rows : 0;
}

TEST(ExpertLoadTest, SumsNeighbouringExpertsOfEachLayer) {
  ExpertCounts counts = Counts();
  counts.rows[8] = 3;
  counts.rows[9] = 4;
  counts.rows[16 + 15] = 5;
  const ExpertLoad load = ExpertLoadMeter().Read(counts, Placed());
  EXPECT_EQ(load.layers, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(load.buckets, 8);
  EXPECT_EQ(load.here, (std::vector<bool>{0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(load.tokens, (std::vector<uint64_t>{0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5}));
}

TEST(ExpertLoadTest, FewExpertsHaveABucketEach) {
  const ExpertCounts counts{.layers = {0}, .num_experts = 3, .rows = {1, 2, 3}};
  const PlacedExperts placed{.layers = {ExpertPlacement(3, 1)}};
  EXPECT_EQ(ExpertLoadMeter().Read(counts, placed).tokens, counts.rows);
}

TEST(ExpertLoadTest, SaysNothingWithoutExperts) {
  const ExpertLoad load = ExpertLoadMeter().Read({}, {});
  EXPECT_TRUE(load.layers.empty());
  EXPECT_EQ(load.imbalance, 0);
}

TEST(ExpertLoadTest, TheImbalanceIsTheBusiestOverTheMeanAveragedOverLayers) {
  ExpertLoadMeter meter;
  ExpertCounts counts = Counts();
  AddEverywhere(100, &counts);
  EXPECT_DOUBLE_EQ(meter.Read(counts, Placed()).imbalance, 1.0);
  AddEverywhere(100, &counts);
  counts.rows[8] += 800;  // layer 1: 900 over (1600 / 8)
  EXPECT_DOUBLE_EQ(meter.Read(counts, Placed()).imbalance, (4.5 + 1.0) / 2);
}

TEST(ExpertLoadTest, FewTokensDoNotChangeAMeasuredImbalance) {
  ExpertLoadMeter meter;
  ExpertCounts counts = Counts();
  counts.rows[10] = 1;
  EXPECT_DOUBLE_EQ(meter.Read(counts, Placed()).imbalance, 8.0);  // the best guess so far
  AddEverywhere(200, &counts);
  const double measured = meter.Read(counts, Placed()).imbalance;
  EXPECT_LT(measured, 1.1);
  counts.rows[10] += 20;
  EXPECT_DOUBLE_EQ(meter.Read(counts, Placed()).imbalance, measured);
}

TEST(ExpertLoadTest, BucketsOfExpertsThatCameAndOfThoseThatWentAreShown) {
  ExpertCounts counts = Counts();
  counts.rows[8] = 1;  // was here
  const PlacedExperts placed{
      .rank = 1,
      .layers = {ExpertPlacement(16, {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {2, 10, 11, 12, 13, 14, 15}}),
                 ExpertPlacement(16, 2)}};
  const std::vector<bool> here = ExpertLoadMeter().Read(counts, placed).here;
  EXPECT_EQ(std::vector(here.begin(), here.begin() + 8),
            (std::vector<bool>{0, 1, 0, 0, 1, 1, 1, 1}));
}

}  // namespace
}  // namespace choir
