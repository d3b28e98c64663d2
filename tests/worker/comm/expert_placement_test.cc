#include "worker/comm/expert_placement.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(ExpertPlacement, BeginsWithOneCopyOfEachInRanges) {
  for (int experts = 0; experts <= 20; ++experts) {
    for (int ranks = 1; ranks <= 6; ++ranks) {
      const ExpertPlacement placement(experts, ranks);
      int32_t next = 0;
      for (int r = 0; r < ranks; ++r) {
        const std::vector<int32_t>& here = placement.ExpertsOf(r);
        EXPECT_EQ(static_cast<int>(here.size()), experts / ranks + (r < experts % ranks ? 1 : 0));
        EXPECT_LE(static_cast<int32_t>(here.size()), ExpertSlots(experts, ranks, 0));
        for (const int32_t e : here) {
          EXPECT_EQ(e, next++);
          ASSERT_EQ(placement.RanksOf(e).size(), 1u);
          EXPECT_EQ(placement.RanksOf(e)[0], r);
        }
      }
      EXPECT_EQ(next, experts);
      EXPECT_FALSE(placement.HasCopies());
    }
  }
}

TEST(ExpertPlacement, KnowsTheRanksOfAnExpertAndItsPlaceThere) {
  const ExpertPlacement placement(3, {{0, 2}, {1, 2}, {}});
  EXPECT_EQ(placement.num_ranks(), 3);
  EXPECT_EQ(placement.num_copies(), 4);
  EXPECT_TRUE(placement.HasCopies());
  EXPECT_EQ(std::vector(placement.RanksOf(2).begin(), placement.RanksOf(2).end()),
            (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(placement.SlotOf(0, 2), 1);
  EXPECT_EQ(placement.SlotOf(0, 1), -1);
  EXPECT_EQ(placement.SlotOf(2, 0), -1);
}

TEST(ExpertPlacement, ARankMayHaveItsExpertsInAnyOrder) {
  const ExpertPlacement placement(3, {{2, 0}, {1, 2}});
  EXPECT_EQ(placement.ExpertsOf(0), (std::vector<int32_t>{2, 0}));
  EXPECT_EQ(placement.SlotOf(0, 2), 0);
  EXPECT_EQ(placement.SlotOf(0, 0), 1);
  EXPECT_EQ(placement.SlotOf(1, 2), 1);
  EXPECT_DEATH(ExpertPlacement(2, {{0, 1, 0}}), "");
}

TEST(ExpertPlacement, ADigestTellsPlacementsApart) {
  const ExpertPlacement a(4, 2), b(4, {{0, 1, 2}, {2, 3}}), c(4, {{0, 1}, {1, 2, 3}});
  EXPECT_EQ(DigestOf({a, b}), DigestOf({a, b}));
  EXPECT_NE(DigestOf({a, b}), DigestOf({b, a}));
  EXPECT_NE(DigestOf({b}), DigestOf({c}));
  EXPECT_GE(DigestOf({}), 2u);
}

TEST(ExpertPlacement, SlotsNeverExceedTheExperts) {
  EXPECT_EQ(ExpertSlots(10, 4, 2), 5);
  EXPECT_EQ(ExpertSlots(10, 4, 100), 10);
  EXPECT_EQ(ExpertSlots(0, 4, 0), 0);
}

}  // namespace
}  // namespace choir
