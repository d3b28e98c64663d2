#include "router/policy/prefix_affinity.h"

#include <gtest/gtest.h>

#include <numeric>

#include "router/policy/explain.h"
#include "tests/router/policy/ranks.h"

namespace choir {
namespace {

constexpr uint32_t kBlock = 32;

class PrefixAffinity : public testing::Test {
 protected:
  PrefixAffinity() {
    ranks_.AddMany(4);
    for (size_t i = 0; i < ranks_.size(); ++i) Change(i, 1);
  }
  void Change(size_t rank, uint64_t incarnation) {
    WorkerIdentity identity = *ranks_[rank].identity;
    identity.incarnation = incarnation;
    identity.kv_block_tokens = kBlock;
    ranks_[rank].identity = std::make_shared<const WorkerIdentity>(identity);
  }
  // The prompt's first token tells prompts apart.
  static PromptPrefix Prefix(int32_t first, size_t num_tokens) {
    std::vector<int32_t> tokens(num_tokens);
    std::iota(tokens.begin(), tokens.end(), first * 100'000);
    return MakePromptPrefix(tokens, "t", kBlock);
  }
  static PlaceQuery Query(const PromptPrefix& prefix, uint32_t num_tokens) {
    PlaceQuery query{.num_tokens = num_tokens};
    query.prefix = &prefix;
    return query;
  }
  Pick Place(const PlaceQuery& query) {
    const Pick pick = *policy_.Choose(ranks_.table(), query);
    policy_.OnPlaced(query, pick, ranks_[Index(pick)]);
    return pick;
  }
  void Agree(size_t rank, uint32_t times = PrefixAffinityPolicy::kAgreeing) {
    while (times-- > 0) policy_.OnFirstToken(ranks_[rank], 0, 0);
  }

  Ranks ranks_;
  PrefixAffinityPolicy policy_{1000, 4096};
};

TEST_F(PrefixAffinity, GoesWhereThePrefixIs) {
  const PromptPrefix prefix = Prefix(1, 1000);
  const Pick first = Place(Query(prefix, 1000));
  EXPECT_EQ(first.reason, RouteReason::kLeastLoad);
  EXPECT_EQ(first.placement.predicted_tokens, 0u);
  ranks_[Index(first)].assigned_sequences = 2;  // busier than the others now
  const Pick second = Place(Query(prefix, 1000));
  EXPECT_EQ(Index(second), Index(first));
  EXPECT_EQ(second.reason, RouteReason::kPrefix);
  EXPECT_EQ(second.placement.predicted_tokens, 992u);
  EXPECT_EQ(second.placement.counted_tokens, 8u);
  const PromptPrefix other = Prefix(2, 1000);
  EXPECT_NE(Index(Place(Query(other, 1000))), Index(first));
}

TEST_F(PrefixAffinity, TheLastTokenIsAlwaysComputed) {
  const PromptPrefix prefix = Prefix(1, 64);
  Place(Query(prefix, 64));
  EXPECT_EQ(Place(Query(prefix, 64)).placement.predicted_tokens, 32u);
}

TEST_F(PrefixAffinity, NeverBeatsARankThatWouldBeDoneSooner) {
  const PromptPrefix prefix = Prefix(1, 1000);
  const size_t holder = Index(Place(Query(prefix, 1000)));
  ranks_[holder].assigned_tokens = 991;
  EXPECT_EQ(Index(*policy_.Choose(ranks_.table(), Query(prefix, 1000))), holder);
  ranks_[holder].assigned_tokens = 992;
  const auto pick = policy_.Choose(ranks_.table(), Query(prefix, 1000));
  EXPECT_NE(Index(pick), holder);
  EXPECT_EQ(pick->reason, RouteReason::kLeastLoad);
}

TEST_F(PrefixAffinity, NeverLeavesTheOthersIdleForALongPrefix) {
  const PromptPrefix prefix = Prefix(1, 90'000);
  const size_t holder = Index(Place(Query(prefix, 90'000)));
  ranks_[holder].assigned_tokens = 4096;
  EXPECT_EQ(Index(*policy_.Choose(ranks_.table(), Query(prefix, 90'000))), holder);
  ranks_[holder].assigned_tokens = 4097;
  EXPECT_NE(Index(*policy_.Choose(ranks_.table(), Query(prefix, 90'000))), holder);
}

TEST_F(PrefixAffinity, OfTwoThatHavePartsTheOneWithLessLeftToDo) {
  const PromptPrefix whole = Prefix(1, 2000), part = Prefix(1, 1000);
  PlaceQuery query = Query(whole, 2000);
  query.passed = {ranks_.PlacementOf(1), ranks_.PlacementOf(2), ranks_.PlacementOf(3)};
  EXPECT_EQ(Index(Place(query)), 0u);
  query = Query(part, 1000);
  query.passed = {ranks_.PlacementOf(0), ranks_.PlacementOf(2), ranks_.PlacementOf(3)};
  EXPECT_EQ(Index(Place(query)), 1u);
  ranks_[0].assigned_tokens = 900;
  EXPECT_EQ(Index(*policy_.Choose(ranks_.table(), Query(whole, 2000))), 0u);
  ranks_[0].assigned_tokens = 1100;
  EXPECT_EQ(Index(*policy_.Choose(ranks_.table(), Query(whole, 2000))), 1u);
}

TEST_F(PrefixAffinity, ARestartedWorkerHasNothing) {
  const PromptPrefix prefix = Prefix(1, 1000);
  const size_t holder = Index(Place(Query(prefix, 1000)));
  ranks_[holder].epoch = 2;  // its process goes on, and so does its cache
  ranks_[holder].connection = 2;
  EXPECT_EQ(policy_.OverlapOf(ranks_[holder], Query(prefix, 1000)), 992u);
  Change(holder, 2);
  EXPECT_EQ(policy_.OverlapOf(ranks_[holder], Query(prefix, 1000)), 0u);
  EXPECT_EQ(policy_.Choose(ranks_.table(), Query(prefix, 1000))->reason, RouteReason::kLeastLoad);
}

TEST_F(PrefixAffinity, AWorkerWithOtherBlocksOrNoneIsPredictedNothing) {
  const PromptPrefix prefix = Prefix(1, 1000);
  WorkerIdentity identity = *ranks_[0].identity;
  identity.kv_block_tokens = 16;
  ranks_[0].identity = std::make_shared<const WorkerIdentity>(identity);
  EXPECT_EQ(Index(Place(Query(prefix, 1000))), 0u);
  EXPECT_EQ(policy_.OverlapOf(ranks_[0], Query(prefix, 1000)), 0u);
}

TEST_F(PrefixAffinity, IsExactWhenItsPredictionsHeld) {
  const PromptPrefix prefix = Prefix(1, 1000);
  const size_t rank = Index(Place(Query(prefix, 1000)));
  Agree(rank, PrefixAffinityPolicy::kAgreeing - 1);
  EXPECT_FALSE(policy_.IsExact(ranks_[rank]));
  policy_.OnFirstToken(ranks_[rank], 992, 992);
  EXPECT_TRUE(policy_.IsExact(ranks_[rank]));

  policy_.OnFirstToken(ranks_[rank], 992, 960);  // it evicted some
  EXPECT_FALSE(policy_.IsExact(ranks_[rank]));
  Agree(rank);
  policy_.OnFirstToken(ranks_[rank], 0, 640);  // another router sent it there
  EXPECT_FALSE(policy_.IsExact(ranks_[rank]));
  Agree(rank);
  EXPECT_TRUE(policy_.IsExact(ranks_[rank]));
  ranks_[rank].epoch = 2;
  EXPECT_FALSE(policy_.IsExact(ranks_[rank]));

  const PrefixStats stats = *policy_.prefix_stats();
  EXPECT_EQ(stats.predictions, stats.agreed + 2);
  EXPECT_EQ(stats.missing_tokens, 32u);
  EXPECT_EQ(stats.unforeseen_tokens, 640u);
  EXPECT_EQ(stats.cached_tokens, stats.predicted_tokens - 32 + 640);
}

TEST_F(PrefixAffinity, WhatTheIndexForgetsDegradesIt) {
  Place(Query(Prefix(1, 320), 320));
  const size_t rank = 0;
  Agree(rank);
  ASSERT_TRUE(policy_.IsExact(ranks_[rank]));
  for (int32_t prompt = 2; prompt <= 100; ++prompt) Place(Query(Prefix(prompt, 320), 320));
  ASSERT_EQ(policy_.prefix_stats()->forgotten_blocks, 0u);
  EXPECT_TRUE(policy_.IsExact(ranks_[rank]));
  Place(Query(Prefix(101, 320), 320));
  EXPECT_EQ(policy_.prefix_stats()->forgotten_blocks, 10u);
  EXPECT_EQ(policy_.prefix_stats()->index_blocks, 1000u);
  EXPECT_FALSE(policy_.IsExact(ranks_[rank]));
}

TEST_F(PrefixAffinity, ChoicesOfOnePromptCountItOnce) {
  const PromptPrefix prefix = Prefix(1, 1000);
  PlaceQuery query = Query(prefix, 1000);
  for (int choice = 0; choice < 3; ++choice) {
    const Pick pick = Place(query);
    EXPECT_EQ(Index(pick), 0u);
    WorkerView& worker = ranks_[0];
    ++worker.assigned_sequences;
    worker.assigned_tokens += pick.placement.counted_tokens;
    query.siblings.push_back({pick.placement, true});
  }
  EXPECT_EQ(ranks_[0].assigned_tokens, 1000u + 8 + 8);
}

TEST_F(PrefixAffinity, ExplainsItsDecision) {
  const PromptPrefix prefix = Prefix(1, 1000);
  const size_t holder = Index(Place(Query(prefix, 1000)));
  const size_t drained = (holder + 1) % 4;
  ranks_[drained].phase = WorkerPhase::kDraining;
  ranks_[drained].reason = "asked to";
  std::vector<WorkerView> workers;
  for (size_t i = 0; i < ranks_.size(); ++i) workers.push_back(ranks_[i]);
  const Explanation explained = Explain(policy_, ranks_.table(), workers, Query(prefix, 1000));
  ASSERT_EQ(explained.ranks.size(), 4u);
  EXPECT_TRUE(explained.ranks[0].picked);
  EXPECT_EQ(explained.ranks[0].worker->index.value(), holder);
  EXPECT_EQ(explained.ranks[0].score.overlap_tokens, 992u);
  EXPECT_EQ(explained.ranks[0].score.cost(), 8u);
  EXPECT_EQ(explained.ranks[1].score.cost(), 1000u);
  EXPECT_EQ(explained.ranks[3].excluded, "draining: asked to");
  EXPECT_EQ(explained.pick->reason, RouteReason::kPrefix);
}

}  // namespace
}  // namespace choir
