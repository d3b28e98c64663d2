#include "router/policy/power_of_two.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/router/policy/ranks.h"

namespace choir {
namespace {

std::vector<uint32_t> Picks(uint64_t seed, int n) {
  PowerOfTwoPolicy policy(seed);
  Ranks ranks;
  ranks.AddMany(50);
  std::vector<uint32_t> picks;
  for (int i = 0; i < n; ++i) {
    const PlaceQuery query{.num_tokens = 1};
    const auto pick = policy.Choose(ranks.table(), query);
    policy.OnPlaced(query, *pick, ranks[Index(pick)]);
    picks.push_back(Index(pick));
    ++ranks[picks.back()].assigned_sequences;
  }
  return picks;
}

TEST(PowerOfTwo, DrawsFollowTheSeed) {
  EXPECT_EQ(Picks(1, 100), Picks(1, 100));
  EXPECT_NE(Picks(1, 100), Picks(2, 100));
}

TEST(PowerOfTwo, LoadsStayClose) {
  const std::vector<uint32_t> picks = Picks(3, 50 * 100);
  for (uint32_t rank = 0; rank < 50; ++rank) {
    EXPECT_NEAR(static_cast<double>(std::count(picks.begin(), picks.end(), rank)), 100, 5) << rank;
  }
}

// One that is full takes nothing as long as it is drawn together with any other.
TEST(PowerOfTwo, TakesTheLessLoadedOfTwo) {
  Ranks ranks;
  ranks.AddMany(2);
  ranks[0].assigned_sequences = 1;
  PowerOfTwoPolicy policy(5);
  for (int i = 0; i < 100; ++i) {
    const auto pick = policy.Choose(ranks.table(), {});
    EXPECT_EQ(Index(pick), 1u);
    EXPECT_EQ(pick->reason, RouteReason::kPowerOfTwo);
    policy.OnPlaced({}, *pick, ranks[1]);
  }
}

TEST(PowerOfTwo, FindsTheFewThatAreAllowedAmongMany) {
  Ranks ranks;
  ranks.AddMany(200);
  PlaceQuery query{.num_tokens = 1};
  for (size_t i = 0; i < 198; ++i) query.passed.push_back(ranks.PlacementOf(i));
  PowerOfTwoPolicy policy(1);
  std::set<uint32_t> picked;
  for (int i = 0; i < 100; ++i) {
    const auto pick = policy.Choose(ranks.table(), query);
    ASSERT_GE(Index(pick), 198u);
    policy.OnPlaced(query, *pick, ranks[Index(pick)]);
    ++ranks[Index(pick)].assigned_sequences;
    picked.insert(Index(pick));
  }
  EXPECT_EQ(picked.size(), 2u);
}

}  // namespace
}  // namespace choir
