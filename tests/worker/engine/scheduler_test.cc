#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr SchedulerLimits kLimits = {
    .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 20};

struct Given {
  ScheduledSequence sequence;
  int64_t blocks = 0;
};

Given Running(uint64_t id, int64_t num_tokens, int64_t num_computed, int64_t blocks,
              int32_t priority = 0) {
  return {{SequenceId(id), {priority, id}, num_tokens, num_computed}, blocks};
}

Given Waiting(uint64_t id, int64_t num_tokens, int32_t priority = 0) {
  return Running(id, num_tokens, 0, 0, priority);
}

SchedulerState MakeState(const std::vector<Given>& running, const std::vector<Given>& waiting,
                         const SchedulerLimits& limits = kLimits) {
  SchedulerState state(limits.blocks_total);
  for (const Given& given : running) {
    state.running.push_back(given.sequence);
    CHOIR_CHECK(state.running.back().blocks.Grow(given.blocks, &state.pool));
  }
  for (const Given& given : waiting) AddWaiting(given.sequence, &state);
  return state;
}

// `given` with the keys of `prompt`, one letter a block; what follows is its own.
Given WithKeys(Given given, const std::string& prompt) {
  std::vector<BlockKey>& keys = given.sequence.keys;
  const auto full = static_cast<size_t>(given.sequence.num_tokens / kLimits.block_tokens);
  for (size_t b = 0; b < full; ++b) {
    const int32_t token =
        b < prompt.size() ? prompt[b] : static_cast<int32_t>(1000 + given.sequence.id.value());
    keys.push_back(ChildKey(keys.empty() ? RootKey("") : keys.back(), std::span(&token, 1), 1));
  }
  return given;
}

// Plans, applies and publishes.
std::string Step(SchedulerState* state, const SchedulerLimits& limits = kLimits) {
  const StepPlan plan = PlanStep(*state, limits);
  ApplyPlan(plan, state);
  PublishComputed(plan, limits, state);
  EXPECT_TRUE(state->pool.IsConsistent());
  return plan.ToString();
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
  EXPECT_EQ(state.pool.num_free(), 1);
}

TEST(SchedulerTest, AnAppliedPlanMovesTheStateOn) {
  auto state = MakeState({}, {Waiting(1, 20)});
  ApplyPlan(PlanStep(state, kLimits), &state);
  EXPECT_EQ(PlanOf(state), "1@16+4!");
  ApplyPlan(PlanStep(state, kLimits), &state);
  AppendToken({0, 1}, &state);
  EXPECT_EQ(PlanOf(state), "1@20+1!");
  EXPECT_EQ(state.pool.num_free(), 15);
  RemoveSequence({0, 1}, &state);
  EXPECT_EQ(state.pool.num_free(), 20);
}

TEST(SchedulerTest, BeginsAfterTheBlocksThatAreKnown) {
  auto state = MakeState({}, {WithKeys(Waiting(1, 14), "abc")});
  EXPECT_EQ(Step(&state), "admit 1; 1@0+14!");
  AddWaiting(WithKeys(Waiting(2, 14), "abx").sequence, &state);
  const StepPlan plan = PlanStep(state, kLimits);
  EXPECT_EQ(plan.admitted.at(0).cached_tokens, 8);
  AppendToken({0, 1}, &state);
  EXPECT_EQ(Step(&state), "admit 2; 1@14+1! 2@8+6!");
  EXPECT_EQ(state.pool.num_held(), 6);  // two of them by both
  RemoveSequence({0, 1}, &state);
  EXPECT_EQ(state.pool.num_held(), 4);
  EXPECT_EQ(state.pool.num_cached(), 1);
}

TEST(SchedulerTest, ComputesAtLeastTheLastToken) {
  auto state = MakeState({}, {WithKeys(Waiting(1, 8), "ab")});
  Step(&state);
  RemoveSequence({0, 1}, &state);
  EXPECT_EQ(state.pool.num_cached(), 2);
  AddWaiting(WithKeys(Waiting(2, 8), "ab").sequence, &state);
  EXPECT_EQ(Step(&state), "admit 2; 2@4+4!");
  EXPECT_EQ(state.pool.num_held(), 2);  // its second block is the cached one again
  EXPECT_EQ(state.pool.num_cached(), 0);
}

TEST(SchedulerTest, APromptThatIsUnderWayIsWaitedFor) {
  auto state = MakeState({}, {WithKeys(Waiting(1, 22), "abcde"), WithKeys(Waiting(2, 22), "abcde"),
                              WithKeys(Waiting(3, 6), "x")});
  EXPECT_EQ(Step(&state), "admit 1; 1@0+16");
  EXPECT_EQ(Step(&state), "admit 3; 1@16+6! 3@0+6!");  // 2 still waits for the fifth block
  for (const uint64_t id : {1, 3}) AppendToken({0, id}, &state);
  EXPECT_EQ(Step(&state), "admit 2; 1@22+1! 3@6+1! 2@20+2!");
}

TEST(SchedulerTest, NobodyWaitsForALessImportantSequence) {
  auto state = MakeState({}, {WithKeys(Waiting(1, 20, 5), "abcde")});
  EXPECT_EQ(Step(&state), "admit 1; 1@0+16");
  AddWaiting(WithKeys(Waiting(2, 24, 0), "abcdef").sequence, &state);
  EXPECT_EQ(Step(&state), "admit 2; 1@16+4! 2@16+8!");  // both compute the fifth block,
  EXPECT_EQ(state.pool.num_held(), 6);                  // and keep one of the two
}

TEST(SchedulerTest, KeepsTheBlocksOfOneThatWaitsForAnother) {
  const SchedulerLimits limits = {
      .step_tokens = 8, .sequences_max = 4, .block_tokens = 4, .blocks_total = 8};
  auto state = MakeState({},
                         {WithKeys(Waiting(1, 14), "abc"), WithKeys(Waiting(2, 14), "abc"),
                          WithKeys(Waiting(3, 4), "x")},
                         limits);
  EXPECT_EQ(Step(&state, limits), "admit 1; 1@0+8");
  // 2 shares two blocks and takes two more: with one to spare for each elder, none is left for 3.
  EXPECT_EQ(Step(&state, limits), "1@8+6!");
  AppendToken({0, 1}, &state);
  EXPECT_EQ(Step(&state, limits), "admit 2; admit 3; 1@14+1! 2@12+2! 3@0+4!");
}

TEST(SchedulerTest, HeldBlocksOfAPrefixCostNothing) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 6};
  auto state = MakeState({}, {WithKeys(Waiting(1, 14), "abc")}, limits);
  Step(&state, limits);
  AppendToken({0, 1}, &state);
  AddWaiting(WithKeys(Waiting(2, 14), "abc").sequence, &state);  // 4 blocks, 2 are free
  EXPECT_EQ(Step(&state, limits), "admit 2; 1@14+1! 2@12+2!");
}

TEST(SchedulerTest, APreemptedSequenceFindsItsOwnBlocks) {
  const SchedulerLimits limits = {
      .step_tokens = 16, .sequences_max = 4, .block_tokens = 4, .blocks_total = 6};
  auto state = MakeState({}, {WithKeys(Waiting(1, 9), "ab")}, limits);
  EXPECT_EQ(Step(&state, limits), "admit 1; 1@0+9!");
  AppendToken({0, 1}, &state);
  AddWaiting(Waiting(2, 12, -1).sequence, &state);
  EXPECT_EQ(Step(&state, limits), "preempt 1; admit 2; 2@0+12!");
  EXPECT_EQ(state.pool.num_cached(), 2);
  AppendToken({-1, 2}, &state);
  EXPECT_EQ(Step(&state, limits), "2@12+1!");  // the last free block
  RemoveSequence({-1, 2}, &state);
  EXPECT_EQ(Step(&state, limits), "admit 1; 1@8+2!");
}

TEST(SchedulerTest, APreemptedSequenceWhoseBlocksWereTakenStartsAnew) {
  const SchedulerLimits limits = {
      .step_tokens = 32, .sequences_max = 4, .block_tokens = 4, .blocks_total = 5};
  auto state = MakeState({}, {WithKeys(Waiting(1, 9), "ab")}, limits);
  Step(&state, limits);
  AppendToken({0, 1}, &state);
  AddWaiting(Waiting(2, 17, -1).sequence, &state);  // takes all
  EXPECT_EQ(Step(&state, limits), "preempt 1; admit 2; 2@0+17!");
  EXPECT_EQ(state.pool.num_held(), 5);
  RemoveSequence({-1, 2}, &state);
  EXPECT_EQ(Step(&state, limits), "admit 1; 1@0+10!");
}

TEST(SchedulerTest, PreemptionOfOneWhoSharesFreesOnlyWhatIsItsOwn) {
  const SchedulerLimits limits = {
      .step_tokens = 32, .sequences_max = 4, .block_tokens = 4, .blocks_total = 6};
  auto state = MakeState({}, {WithKeys(Waiting(1, 15), "abc")}, limits);
  Step(&state, limits);
  AppendToken({0, 1}, &state);
  for (const uint64_t id : {2, 3}) {
    AddWaiting(WithKeys(Waiting(id, 15), "abc").sequence, &state);
  }
  EXPECT_EQ(Step(&state, limits), "admit 2; 1@15+1! 2@12+3!");  // 3 finds no block to spare
  EXPECT_EQ(state.pool.num_held(), 5);
  for (const uint64_t id : {1, 2}) AppendToken({0, id}, &state);
  EXPECT_EQ(Step(&state, limits), "1@16+1! 2@15+1!");
  for (const uint64_t id : {1, 2}) AppendToken({0, id}, &state);
  // The second's own block comes back, and is not needed for anything yet.
  EXPECT_EQ(Step(&state, limits), "preempt 2; 1@17+1!");
  EXPECT_EQ(state.pool.num_held(), 5);
  EXPECT_EQ(state.pool.num_cached(), 0);
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
