// What holds for every policy.
#include <gtest/gtest.h>

#include <random>

#include "tests/router/policy/ranks.h"

namespace choir {
namespace {

class PolicyContract : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Policy> Make(uint64_t seed = 1) const {
    return MakePolicy({.name = GetParam(), .seed = seed});
  }
};

TEST_P(PolicyContract, IsWhatItIsCalled) { EXPECT_STREQ(Make()->name(), GetParam()); }

TEST_P(PolicyContract, PicksNothingWhereThereIsNothing) {
  Ranks ranks;
  EXPECT_FALSE(Make()->Choose(ranks.table(), {.num_tokens = 10}));
}

// Whatever the policy likes, these are out of the question.
TEST_P(PolicyContract, NeverPicksARankThatIsNotAllowed) {
  std::mt19937_64 rng(7);
  const auto policy = Make();
  Ranks ranks;
  ranks.AddMany(12);
  for (size_t i = 0; i < ranks.size(); ++i) ranks.SetBlockTokens(i, 16);
  std::vector<PromptPrefix> prefixes;
  for (int32_t prompt = 0; prompt < 10; ++prompt) {
    prefixes.push_back(MakePromptPrefix(std::vector<int32_t>(3000, prompt), "t", 16));
  }
  for (int round = 0; round < 3000; ++round) {
    WorkerView& changed = ranks[rng() % ranks.size()];
    changed.phase = kWorkerPhases[rng() % std::size(kWorkerPhases)];
    changed.takes_work = rng() % 4 != 0;  // as its breaker says
    changed.epoch = 1 + rng() % 3;
    changed.assigned_sequences = rng() % 20;
    PlaceQuery query{.num_tokens = 1 + static_cast<uint32_t>(rng() % 3000)};
    query.prefix = &prefixes[rng() % prefixes.size()];
    query.session = rng() % 30;
    if (rng() % 4 == 0) query.numerics_id = rng() % 2 == 0 ? "n" : "other";
    for (size_t i = rng() % 8; i > 0; --i) {
      query.passed.push_back(ranks.PlacementOf(rng() % ranks.size()));
    }
    for (size_t i = rng() % 3; i > 0; --i) {
      query.siblings.push_back({ranks.PlacementOf(rng() % ranks.size()), rng() % 2 == 0});
    }
    std::vector<size_t> allowed;
    for (size_t i = 0; i < ranks.size(); ++i) {
      const bool passed = std::any_of(query.passed.begin(), query.passed.end(),
                                      [&](const Placement& p) { return p.IsOf(ranks[i]); });
      if (ranks[i].Serves() && !passed && query.numerics_id != "other") allowed.push_back(i);
    }
    const std::optional<Pick> pick = policy->Choose(ranks.table(), query);
    ASSERT_EQ(pick.has_value(), !allowed.empty()) << "round " << round;
    if (!pick) continue;
    EXPECT_TRUE(std::count(allowed.begin(), allowed.end(), Index(pick))) << "round " << round;
    EXPECT_TRUE(pick->placement.IsOf(ranks[Index(pick)]));
    EXPECT_EQ(pick->reason == RouteReason::kOnlyOne, allowed.size() == 1) << "round " << round;
    policy->OnPlaced(query, *pick, ranks[Index(pick)]);
  }
}

TEST_P(PolicyContract, TheSameCallsGiveTheSamePicks) {
  std::vector<uint32_t> picks[2];
  for (std::vector<uint32_t>& out : picks) {
    const auto policy = Make();
    Ranks ranks;
    ranks.AddMany(9);
    for (int i = 0; i < 200; ++i) {
      const PlaceQuery query{.num_tokens = 100};
      const std::optional<Pick> pick = policy->Choose(ranks.table(), query);
      EXPECT_EQ(Index(policy->Choose(ranks.table(), query)), Index(pick)) << "looking changed it";
      policy->OnPlaced(query, *pick, ranks[Index(pick)]);
      ++ranks[Index(pick)].assigned_sequences;
      out.push_back(Index(pick));
    }
  }
  EXPECT_EQ(picks[0], picks[1]);
}

TEST_P(PolicyContract, AResumeStaysWithinItsNumericsId) {
  Ranks ranks;
  ranks.Add("a", "x");
  ranks.Add("b", "y");
  ranks.Add("c", "x");
  EXPECT_EQ(Index(Make()->Choose(ranks.table(), {.numerics_id = "y"})), 1u);
  EXPECT_FALSE(Make()->Choose(ranks.table(), {.numerics_id = "z"}));
}

TEST_P(PolicyContract, PassesOverARankThatJustFailedUntilItIsAnotherLife) {
  Ranks ranks;
  ranks.Add("a");
  const PlaceQuery query{.passed = {ranks.PlacementOf(0), ranks.PlacementOf(0)}};
  EXPECT_FALSE(Make()->Choose(ranks.table(), query));
  ranks[0].epoch = 2;
  EXPECT_TRUE(Make()->Choose(ranks.table(), query));
}

TEST_P(PolicyContract, ChoicesOfOneLongPromptGoWhereItIsComputed) {
  const auto policy = Make();
  Ranks ranks;
  ranks.AddMany(2);
  PlaceQuery query{.num_tokens = 1000};
  std::vector<uint32_t> picked;
  for (int choice = 0; choice < 4; ++choice) {
    const std::optional<Pick> pick = policy->Choose(ranks.table(), query);
    policy->OnPlaced(query, *pick, ranks[Index(pick)]);
    picked.push_back(Index(pick));
    EXPECT_EQ(pick->reason == RouteReason::kSibling, choice != 0);
    WorkerView& worker = ranks[picked.back()];
    ++worker.assigned_sequences;
    worker.assigned_tokens += pick->placement.counted_tokens;
    query.siblings.push_back({pick->placement, true});
  }
  EXPECT_EQ(std::count(picked.begin(), picked.end(), picked[0]), 4);
}

TEST_P(PolicyContract, ASiblingOfAnEarlierLifeCountsNothing) {
  Ranks ranks;
  ranks.AddMany(2);
  const PlaceQuery query{.num_tokens = 1000, .siblings = {{ranks.PlacementOf(0), true}}};
  ranks[0].epoch = 2;
  EXPECT_NE(Make()->Choose(ranks.table(), query)->reason, RouteReason::kSibling);
}

// With nothing else to tell ranks apart, work spreads.
TEST_P(PolicyContract, NoRankIsLeftWithoutWork) {
  const auto policy = Make();
  Ranks ranks;
  ranks.AddMany(8);
  for (int i = 0; i < 400; ++i) {
    const PlaceQuery query{.num_tokens = 10};
    const std::optional<Pick> pick = policy->Choose(ranks.table(), query);
    policy->OnPlaced(query, *pick, ranks[Index(pick)]);
    ++ranks[Index(pick)].assigned_sequences;
  }
  for (size_t i = 0; i < ranks.size(); ++i) EXPECT_GT(ranks[i].assigned_sequences, 0u) << i;
}

INSTANTIATE_TEST_SUITE_P(All, PolicyContract,
                         testing::Values("least_load", "power_of_two", "prefix_affinity",
                                         "sticky_user"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace choir
