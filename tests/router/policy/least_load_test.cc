#include "router/policy/least_load.h"

#include <gtest/gtest.h>

#include "tests/router/policy/ranks.h"

namespace choir {
namespace {

TEST(LeastLoad, PicksTheLeastLoadedRank) {
  Ranks ranks;
  ranks.AddMany(3);
  ranks[0].assigned_sequences = 2;
  ranks[1].reported.running = 1;
  ranks[2].assigned_sequences = 1;
  ranks[2].assigned_tokens = 10;
  EXPECT_EQ(Index(LeastLoadPolicy().Choose(ranks.table(), {})), 1u);
}

TEST(LeastLoad, ALongPromptOutweighsAFewSequences) {
  Ranks ranks;
  ranks.AddMany(2);
  ranks[0].assigned_sequences = 1;
  ranks[0].assigned_tokens = 10000;
  ranks[1].assigned_sequences = 3;
  EXPECT_EQ(Index(LeastLoadPolicy().Choose(ranks.table(), {})), 1u);
}

TEST(LeastLoad, BreaksTiesByGroupAndRank) {
  Ranks ranks;
  ranks.AddMany(2);
  WorkerIdentity identity = *ranks[0].identity;
  identity.rank = 7;
  ranks[0].identity = std::make_shared<const WorkerIdentity>(identity);
  EXPECT_EQ(Index(LeastLoadPolicy().Choose(ranks.table(), {})), 1u);
}

TEST(LeastLoad, ChoicesOfALongPromptLeaveARankThatIsFullOfThem) {
  Ranks ranks;
  ranks.AddMany(2);
  PlaceQuery query{.num_tokens = 1000};
  std::vector<uint32_t> picked;
  for (int choice = 0; choice < 8; ++choice) {
    const std::optional<Pick> pick = LeastLoadPolicy().Choose(ranks.table(), query);
    picked.push_back(Index(pick));
    EXPECT_EQ(pick->reason == RouteReason::kSibling, choice != 0 && choice != 4);
    WorkerView& worker = ranks[picked.back()];
    ++worker.assigned_sequences;
    worker.assigned_tokens += pick->placement.counted_tokens;
    query.siblings.push_back({pick->placement, true});
  }
  // Four sequences weigh as much as computing the prompt once more.
  EXPECT_EQ(picked, (std::vector<uint32_t>{0, 0, 0, 0, 1, 1, 1, 1}));
}

TEST(LeastLoad, ChoicesOfAShortPromptSpread) {
  Ranks ranks;
  ranks.AddMany(2);
  ranks[0].assigned_sequences = 1;
  ranks[0].assigned_tokens = 10;
  PlaceQuery query{.num_tokens = 10, .siblings = {{ranks.PlacementOf(0), true}}};
  query.siblings[0].placement.counted_tokens = 10;
  EXPECT_EQ(Index(LeastLoadPolicy().Choose(ranks.table(), query)), 1u);
}

}  // namespace
}  // namespace choir
