#include "router/policy/policy.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

WorkerView Ready(uint32_t index, const std::string& id, const std::string& numerics = "n") {
  WorkerView worker;
  worker.index = WorkerIndex(index);
  worker.phase = WorkerPhase::kReady;
  worker.connection = 1;
  worker.epoch = 1;
  WorkerIdentity identity;
  identity.worker_id = id;
  identity.numerics_id = numerics;
  worker.identity = std::make_shared<const WorkerIdentity>(identity);
  return worker;
}

uint32_t Index(const std::optional<Pick>& pick) { return pick->placement.worker.value(); }

TEST(Policy, PicksTheLeastLoadedRank) {
  Snapshot snapshot{.version = 1,
                    .workers = {Ready(0, "g0r0"), Ready(1, "g0r1"), Ready(2, "g0r2")}};
  snapshot.workers[0].assigned_sequences = 2;
  snapshot.workers[1].reported.running = 1;
  snapshot.workers[2].assigned_sequences = 1;
  snapshot.workers[2].assigned_tokens = 10;
  EXPECT_EQ(Index(PickWorker(snapshot, {})), 1u);
}

TEST(Policy, ALongPromptOutweighsAFewSequences) {
  Snapshot snapshot{.version = 1, .workers = {Ready(0, "g0r0"), Ready(1, "g0r1")}};
  snapshot.workers[0].assigned_sequences = 1;
  snapshot.workers[0].assigned_tokens = 10000;
  snapshot.workers[1].assigned_sequences = 3;
  EXPECT_EQ(Index(PickWorker(snapshot, {})), 1u);
}

TEST(Policy, BreaksTiesByWorkerId) {
  const Snapshot snapshot{.version = 1, .workers = {Ready(0, "g0r1"), Ready(1, "g0r0")}};
  EXPECT_EQ(Index(PickWorker(snapshot, {})), 1u);
}

TEST(Policy, TakesOnlyReadyRanks) {
  Snapshot snapshot{.version = 1, .workers = {Ready(0, "a"), Ready(1, "b")}};
  snapshot.workers[0].phase = WorkerPhase::kDraining;
  EXPECT_EQ(Index(PickWorker(snapshot, {})), 1u);
  EXPECT_EQ(PickWorker(snapshot, {})->reason, RouteReason::kOnlyOne);
  snapshot.workers[1].phase = WorkerPhase::kLost;
  EXPECT_FALSE(PickWorker(snapshot, {}));
}

TEST(Policy, AResumeStaysWithinItsNumericsId) {
  const Snapshot snapshot{.version = 1, .workers = {Ready(0, "a", "x"), Ready(1, "b", "y")}};
  PlaceQuery query;
  query.numerics_id = "y";
  EXPECT_EQ(Index(PickWorker(snapshot, query)), 1u);
  query.numerics_id = "z";
  EXPECT_FALSE(PickWorker(snapshot, query));
}

TEST(Policy, PassesOverARankThatJustFailedUntilItIsAnotherLife) {
  Snapshot snapshot{.version = 1, .workers = {Ready(0, "a")}};
  PlaceQuery query;
  query.passed = {{WorkerIndex(0), 1, 1, "n"}};
  EXPECT_FALSE(PickWorker(snapshot, query));
  snapshot.workers[0].epoch = 2;
  EXPECT_TRUE(PickWorker(snapshot, query));
}

}  // namespace
}  // namespace choir
