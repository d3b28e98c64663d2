#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

constexpr SchedulerLimits kLimits = {
    .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 20};

ScheduledSequence Waiting(uint64_t id, int64_t num_tokens, int32_t priority = 0) {
  return {SequenceId(id), {priority, id}, num_tokens, 0, 0};
}

ScheduledSequence Running(uint64_t id, int64_t num_tokens, int64_t num_computed, int64_t blocks,
                          int32_t priority = 0) {
  return {SequenceId(id), {priority, id}, num_tokens, num_computed, blocks};
}

SchedulerState MakeState(std::vector<ScheduledSequence> running,
                         std::vector<ScheduledSequence> waiting,
                         const SchedulerLimits& limits = kLimits) {
  SchedulerState state;
  state.blocks_free = limits.blocks_total;
  for (const auto& s : running) {
    state.running.push_back(s);
    state.blocks_free -= s.blocks;
  }
  for (const auto& s : waiting) AddWaiting(s, &state);
  return state;
}

std::string PlanOf(const SchedulerState& state, const SchedulerLimits& limits = kLimits) {
  return PlanStep(state, limits).ToString();
}

TEST(SchedulerTest, PlansNothingForNobody) {
  EXPECT_TRUE(PlanStep(MakeState({}, {}), kLimits).empty());
}

TEST(SchedulerTest, PutsDecodesFirstAndFillsTheBudgetWithPrefill) {
  const auto state = MakeState({Running(1, 9, 4, 3), Running(2, 6, 5, 2)}, {Waiting(3, 30)});
  EXPECT_EQ(PlanOf(state), "admit 3; 2@5+1! 1@4+5! 3@0+10");
}

TEST(SchedulerTest, GoesOnWithAChunkedPrefillBeforeItAdmits) {
  const auto state = MakeState({Running(1, 30, 16, 8)}, {Waiting(2, 4)});
  EXPECT_EQ(PlanOf(state), "admit 2; 1@16+14! 2@0+2");
}

TEST(SchedulerTest, AdmitsByPriorityThenArrival) {
  const auto state = MakeState({}, {Waiting(1, 3, 5), Waiting(2, 3, 0), Waiting(3, 3, 5)});
  EXPECT_EQ(PlanOf(state), "admit 2; admit 1; admit 3; 2@0+3! 1@0+3! 3@0+3!");
}

TEST(SchedulerTest, AdmitsNoMoreThanItHasSeats) {
  const auto state =
      MakeState({}, {Waiting(1, 1), Waiting(2, 1), Waiting(3, 1), Waiting(4, 1), Waiting(5, 1)});
  EXPECT_EQ(PlanStep(state, kLimits).admitted.size(), 4u);
}

TEST(SchedulerTest, NobodyOvertakesAHeadThatDoesNotFitYet) {
  const auto state = MakeState({Running(1, 40, 39, 10)}, {Waiting(2, 40), Waiting(3, 1)});
  EXPECT_EQ(PlanOf(state), "1@39+1!");  // 10 blocks and the spare one are not free
}

TEST(SchedulerTest, KeepsABlockFreeForEachRunningSequence) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 4};
  const auto state = MakeState({Running(1, 8, 7, 2)}, {Waiting(2, 5)}, limits);
  EXPECT_EQ(PlanOf(state, limits), "1@7+1!");
  const auto alone = MakeState({}, {Waiting(2, 16)}, limits);
  EXPECT_EQ(PlanOf(alone, limits), "admit 2; 2@0+16!");
}

TEST(SchedulerTest, PreemptsTheYoungestWhenADecodeNeedsABlock) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 5};
  const auto state =
      MakeState({Running(1, 9, 8, 2), Running(2, 3, 2, 1), Running(3, 6, 5, 2)}, {}, limits);
  EXPECT_EQ(PlanOf(state, limits), "preempt 3; 1@8+1! 2@2+1!");
}

TEST(SchedulerTest, PreemptsALessImportantClassBeforeAYoungerSequence) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 5};
  const auto state =
      MakeState({Running(3, 9, 8, 2), Running(2, 3, 2, 1, 1), Running(1, 6, 5, 2, 9)}, {}, limits);
  EXPECT_EQ(PlanOf(state, limits), "preempt 1; 3@8+1! 2@2+1!");
}

TEST(SchedulerTest, PreemptsTheOneThatNeedsABlockWhenItIsTheLeastImportant) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 4};
  const auto state = MakeState({Running(1, 7, 6, 2), Running(2, 9, 8, 2)}, {}, limits);
  EXPECT_EQ(PlanOf(state, limits), "preempt 2; 1@6+1!");
}

TEST(SchedulerTest, MakesRoomForAMoreImportantClass) {
  const auto state =
      MakeState({Running(1, 8, 7, 2, 0), Running(2, 36, 35, 9, 5), Running(3, 36, 35, 9, 5)},
                {Waiting(4, 24, 1)});
  EXPECT_EQ(PlanOf(state), "preempt 3; admit 4; 1@7+1! 2@35+1! 4@0+14");
}

TEST(SchedulerTest, PreemptsNobodyForAHeadThatStillWouldNotFit) {
  const auto state =
      MakeState({Running(1, 60, 59, 15, 0), Running(2, 16, 15, 4, 5)}, {Waiting(3, 24, 1)});
  EXPECT_EQ(PlanOf(state), "1@59+1! 2@15+1!");
}

TEST(SchedulerTest, APreemptedSequenceWaitsAtItsOldPlaceAndStartsAnew) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 4};
  auto state = MakeState({Running(1, 9, 8, 2), Running(2, 6, 5, 2)}, {Waiting(3, 2)}, limits);
  ApplyPlan(PlanStep(state, limits), &state);
  ASSERT_EQ(state.waiting.size(), 2u);
  EXPECT_EQ(state.waiting.front().id, SequenceId(2));
  EXPECT_EQ(state.waiting.front().num_computed, 0);
  EXPECT_EQ(state.waiting.front().num_tokens, 6);
  EXPECT_EQ(state.waiting_tokens, 8);
  EXPECT_EQ(state.blocks_free, 1);
}

TEST(SchedulerTest, AnAppliedPlanMovesTheStateOn) {
  auto state = MakeState({}, {Waiting(1, 20)});
  ApplyPlan(PlanStep(state, kLimits), &state);
  EXPECT_EQ(PlanOf(state), "1@16+4!");
  ApplyPlan(PlanStep(state, kLimits), &state);
  AppendToken({0, 1}, &state);
  EXPECT_EQ(PlanOf(state), "1@20+1!");
  EXPECT_EQ(state.blocks_free, 15);
  RemoveSequence({0, 1}, &state);
  EXPECT_EQ(state.blocks_free, 20);
}

TEST(SchedulerTest, SaysWhatIsNeededAndWhatThereIs) {
  EXPECT_TRUE(CheckFits(80, kLimits).ok());
  const Status status = CheckFits(81, kLimits);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(MessageOf(status).find("needs 21 KV blocks"), std::string::npos) << status;
  EXPECT_NE(MessageOf(status).find("has 20 blocks"), std::string::npos) << status;
}

}  // namespace
}  // namespace choir
