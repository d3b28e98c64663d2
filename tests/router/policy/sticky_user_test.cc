#include "router/policy/sticky_user.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/router/policy/ranks.h"

namespace choir {
namespace {

constexpr uint64_t kImbalance = 10 * kDecodeWeight;

std::string PickOf(Ranks& ranks, int user) {
  PlaceQuery query{.num_tokens = 10};
  query.session = SessionHash("acme", "user-" + std::to_string(user));
  const auto pick = StickyUserPolicy(kImbalance).Choose(ranks.table(), query);
  return ranks[Index(pick)].identity->worker_id;
}

std::map<int, std::string> PicksOf(Ranks& ranks, int num_users) {
  std::map<int, std::string> picks;
  for (int user = 0; user < num_users; ++user) picks[user] = PickOf(ranks, user);
  return picks;
}

TEST(StickyUser, AUserStaysWhateverTheLoadWithinTheBound) {
  Ranks ranks;
  ranks.AddMany(5);
  const std::string at = PickOf(ranks, 1);
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i].identity->worker_id == at) ranks[i].assigned_sequences = 10;
  }
  EXPECT_EQ(PickOf(ranks, 1), at);
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i].identity->worker_id == at) ranks[i].assigned_sequences = 11;
  }
  const std::string other = PickOf(ranks, 1);
  EXPECT_NE(other, at) << "too loaded";
  EXPECT_EQ(PickOf(ranks, 1), other) << "and the second choice is one, too";
}

TEST(StickyUser, UsersSpreadEvenly) {
  Ranks ranks;
  ranks.AddMany(10);
  std::map<std::string, int> count;
  for (const auto& [user, rank] : PicksOf(ranks, 10'000)) ++count[rank];
  ASSERT_EQ(count.size(), 10u);
  for (const auto& [rank, users] : count) EXPECT_NEAR(users, 1000, 150) << rank;
}

// Ranks come and go in any order: only users of a rank that went move, and only to one that came.
TEST(StickyUser, NobodyMovesWithoutNeed) {
  Ranks ranks;
  ranks.AddMany(20);
  std::map<int, std::string> before = PicksOf(ranks, 500);
  for (int round = 0; round < 60; ++round) {
    WorkerView& changed = ranks[static_cast<size_t>(round * 7 % 11)];
    const bool goes = changed.phase == WorkerPhase::kReady;
    changed.phase = goes ? WorkerPhase::kLost : WorkerPhase::kReady;
    ++changed.epoch;
    const std::map<int, std::string> after = PicksOf(ranks, 500);
    for (const auto& [user, rank] : after) {
      if (goes) {
        EXPECT_EQ(before[user] != rank, before[user] == changed.identity->worker_id);
      } else if (before[user] != rank) {
        EXPECT_EQ(rank, changed.identity->worker_id);
      }
    }
    before = after;
  }
}

// Another router knows the ranks in another order, at other addresses.
TEST(StickyUser, EveryRouterFindsTheSameRank) {
  Ranks one, other;
  for (const char* name : {"a", "b", "c", "d"}) one.Add(name);
  for (const char* name : {"d", "b", "a", "c"}) other.Add(name);
  EXPECT_EQ(PicksOf(one, 200), PicksOf(other, 200));
}

TEST(StickyUser, WhoIsNobodyInParticularGetsTheLeastLoaded) {
  Ranks ranks;
  ranks.AddMany(3);
  ranks[0].assigned_sequences = ranks[2].assigned_sequences = 1;
  const auto pick = StickyUserPolicy(kImbalance).Choose(ranks.table(), {.num_tokens = 1});
  EXPECT_EQ(Index(pick), 1u);
  EXPECT_EQ(pick->reason, RouteReason::kLeastLoad);
}

TEST(StickyUser, TenantsUsersOfOneNameAreDifferent) {
  EXPECT_NE(SessionHash("a", "user"), SessionHash("b", "user"));
  EXPECT_NE(SessionHash("ab", "c"), SessionHash("a", "bc"));
}

}  // namespace
}  // namespace choir
