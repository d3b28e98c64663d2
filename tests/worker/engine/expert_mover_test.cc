// Engines whose experts move while they answer.
#include "worker/engine/expert_mover.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <stop_token>

#include "tests/support/engine_group.h"
#include "tests/support/ranks_on_hosts.h"

namespace choir {
namespace {

constexpr int kRequestsMax = 5000;  // enough for any attempt to come to its end

EngineOptions MovingOptions(int32_t redundant = 1) {
  EngineOptions options = SmallEngineOptions();
  options.redundant_experts = redundant;
  options.placement_steps = 4;
  return options;
}

// All rows go to the first few of six experts; the first two are on rank 0 of up to three.
FakeModelOptions Skewed(int32_t busy = 2) { return {.num_experts = 6, .busy_experts = busy}; }

// Asks all ranks, one request each, and checks the answers.
void Ask(EngineGroup& group, uint64_t* id) {
  std::vector<SequenceRequest> requests;
  for (size_t r = 0; r < group.size(); ++r) {
    requests.push_back(MakeRequest(++*id, 30, 12));
    ASSERT_TRUE(group.rank(r).Submit(requests.back()).ok());
  }
  for (size_t r = 0; r < group.size(); ++r) {
    Answer answer = group.rank(r).Wait(requests[r].id.value());
    std::vector<int32_t> tokens = answer.tokens;
    while (answer.finish == Finish::kLost) {  // an epoch ended meanwhile
      ASSERT_TRUE(group.rank(r).Submit(ReplayOf(requests[r], ++*id, tokens)).ok());
      answer = group.rank(r).Wait(*id);
      tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
    }
    ASSERT_EQ(answer.finish, Finish::kLength);
    ASSERT_EQ(tokens, FakeAnswer(requests[r]));
  }
}

// Asks on until `done` holds of the placement of rank 0.
template <typename Done>
ExpertPlacementStats AskUntil(EngineGroup& group, uint64_t* id, const Done& done) {
  for (int i = 0; i < kRequestsMax; ++i) {
    const ExpertPlacementStats stats = group.rank(0).engine().stats().placement;
    if (done(stats)) return stats;
    Ask(group, id);
    if (testing::Test::HasFatalFailure()) break;
  }
  ADD_FAILURE() << "the attempt did not end";
  return {};
}

TEST(ExpertMoverTest, SkewedLoadSpreadsWhileStreamsRunWithTheSameTokens) {
  // Threads; shared memory; sockets; shared memory and sockets.
  const std::vector<std::vector<std::string>> cases = {
      {}, {}, HostsNextToEachOther(2, 2), HostsNextToEachOther(2, 1), HostsInTurn(3, 2)};
  for (size_t i = 0; i < cases.size(); ++i) {
    const int num_ranks = i == 0 ? 2 : i == 1 ? 3 : static_cast<int>(cases[i].size());
    EngineGroup group(num_ranks, Skewed(4), MovingOptions());
    group.Start();
    group.SetEpoch(cases[i].empty() ? MakeLocalCollectives(num_ranks, 1, {})
                                    : MakeRanksOnHosts(cases[i], 1, {.ring_bytes = 4096}));
    // A stream that lasts over the switch.
    const auto whole = MakeRequest(1, 10, 1400);
    ASSERT_TRUE(group.rank(1).Submit(whole).ok());
    uint64_t id = 1;
    AskUntil(group, &id, [&](const ExpertPlacementStats& s) {
      return s.applied > 0 && s.rank_imbalance < 1.2;  // of a window after the switch
    });
    EXPECT_EQ(group.rank(1).Wait(1).tokens, FakeAnswer(whole));
    EXPECT_EQ(group.rank(1).num_failures(), 0u);
    Ask(group, &id);  // after it all ranks have published
    uint64_t moves = 0;
    for (size_t r = 0; r < group.size(); ++r) {
      const ExpertPlacementStats stats = group.rank(r).engine().stats().placement;
      EXPECT_GE(stats.version, 1u);
      EXPECT_EQ(stats.failed, 0u);
      moves += stats.moves;
    }
    EXPECT_GE(moves, 1u);
  }
}

TEST(ExpertMoverTest, TheImbalanceOfRanksIsMeasuredWhereNothingMoves) {
  EngineGroup group(2, Skewed(), MovingOptions(0));
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  const ExpertPlacementStats stats =
      AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.rank_imbalance > 0; });
  EXPECT_DOUBLE_EQ(stats.rank_imbalance, 2.0);
  EXPECT_EQ(stats.applied + stats.kept + stats.failed, 0u);
  EXPECT_EQ(stats.sole, 6);
}

TEST(ExpertMoverTest, EvenLoadKeepsThePlacement) {
  EngineGroup group(2, {.num_experts = 5}, MovingOptions());
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  const ExpertPlacementStats stats =
      AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.kept + s.applied >= 8; });
  EXPECT_GE(stats.kept, 6u);  // it may find a better one once or twice, and stays there
}

TEST(ExpertMoverTest, CoverPutsEveryExpertOnTwoRanks) {
  EngineOptions options = MovingOptions(2);
  options.expert_cover = true;
  EngineGroup group(3, {.num_experts = 6}, options);
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  const ExpertPlacementStats stats =
      AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.applied > 0; });
  EXPECT_EQ(stats.sole, 0);
  EXPECT_EQ(stats.copies, 6);
}

TEST(ExpertMoverTest, AFailureOnOneRankLeavesThePlacementAndIsTriedAgain) {
  std::atomic<int> failures{0};
  FakeModelOptions model = Skewed();
  model.on_place = [&](int32_t rank, const std::stop_token&) -> Status {
    if (rank == 1 && failures.fetch_add(1) < 2) return Unavailable("the disk is gone");
    return absl::OkStatus();
  };
  EngineGroup group(2, model, MovingOptions());
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  const ExpertPlacementStats after =
      AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.failed > 0; });
  EXPECT_EQ(after.version, 0u);
  EXPECT_EQ(after.copies, 0);
  AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.applied > 0; });
  EXPECT_EQ(group.rank(0).engine().stats().placement.failed, 2u);
  EXPECT_EQ(group.rank(0).num_failures(), 0u) << "the epoch lives on";
}

// Reading experts lasts until it is told to stop.
class Endless {
 public:
  Status operator()(const std::stop_token& stop) {
    std::unique_lock lock(mu_);
    started_ = true;
    changed_.notify_all();
    changed_.wait(lock, stop, [] { return false; });
    return Cancelled("told to stop");
  }
  bool started() {
    std::lock_guard lock(mu_);
    return started_;
  }

 private:
  std::mutex mu_;
  std::condition_variable_any changed_;
  bool started_ = false;
};

TEST(ExpertMoverTest, AnEpochThatEndsDuringAMoveGivesItUpAndStreamsGoOn) {
  Endless endless;
  std::atomic<bool> on{true};
  FakeModelOptions model = Skewed();
  model.on_place = [&](int32_t rank, const std::stop_token& stop) -> Status {
    return rank == 1 && on.load() ? endless(stop) : absl::OkStatus();
  };
  EngineGroup group(2, model, MovingOptions());
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  AskUntil(group, &id, [&](const ExpertPlacementStats&) { return endless.started(); });
  const auto cut = MakeRequest(++id, 10, 1400);
  group.rank(0).HoldAt(id, 5);
  ASSERT_TRUE(group.rank(0).Submit(cut).ok());
  group.rank(0).WaitForTokens(id, 5);
  on.store(false);
  group.SetEpoch(2);
  group.rank(0).Release();
  Answer lost = group.rank(0).Wait(id);
  ASSERT_EQ(lost.finish, Finish::kLost);
  ASSERT_TRUE(group.rank(1).Submit(ReplayOf(cut, 1000000, lost.tokens)).ok());
  for (const int32_t t : group.rank(1).Wait(1000000).tokens) lost.tokens.push_back(t);
  EXPECT_EQ(lost.tokens, FakeAnswer(cut));
  AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.applied > 0; });
}

TEST(ExpertMoverTest, AnEngineStopsInTheMiddleOfAMove) {
  Endless endless;
  FakeModelOptions model = Skewed();
  model.on_place = [&](int32_t, const std::stop_token& stop) { return endless(stop); };
  EngineGroup group(2, model, MovingOptions());
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  AskUntil(group, &id, [&](const ExpertPlacementStats&) { return endless.started(); });
}

TEST(ExpertMoverTest, ANewEpochBeginsWithTheFirstPlacement) {
  EngineGroup group(2, Skewed(), MovingOptions());
  group.Start();
  group.SetEpoch(1);
  uint64_t id = 0;
  AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.applied > 0; });
  group.SetEpoch(2);
  Ask(group, &id);
  EXPECT_EQ(group.rank(0).engine().stats().placement.version, 0u);
  AskUntil(group, &id, [](const ExpertPlacementStats& s) { return s.applied > 1; });
}

// The calls around the first exchange of loads, after some 80 steps of four calls.
TEST(ExpertMoverTest, AFaultInAnyCollectiveEndsTheEpochForAll) {
  for (int64_t fail_at = 300; fail_at < 420; fail_at += 7) {
    EngineGroup group(2, Skewed(), MovingOptions());
    group.SetFaultyEpoch(1, 1, fail_at);
    group.Start();
    const auto a = MakeRequest(1, 20, 300), b = MakeRequest(2, 6, 300);
    ASSERT_TRUE(group.rank(0).Submit(a).ok());
    ASSERT_TRUE(group.rank(1).Submit(b).ok());
    for (size_t r = 0; r < 2; ++r) {
      EXPECT_EQ(MessageOf(group.rank(r).WaitForFailure().second), "injected fault") << fail_at;
      EXPECT_EQ(group.rank(r).Wait(r + 1).finish, Finish::kLost);
    }
  }
}

TEST(ExpertMoverTest, WhatDoesNotFitTheModelIsRefused) {
  const auto error = [](int32_t experts, int ranks, EngineOptions options) {
    const ModelInfo info = FakeLoadedModel(FakeModelOptions{.num_experts = experts}).info();
    return MessageOf(Engine::LimitsFor(options, info, ranks).status());
  };
  EXPECT_EQ(error(6, 3, MovingOptions(4)), "");
  EXPECT_EQ(
      error(6, 3, MovingOptions(5)),
      "engine: redundant_experts 5 is not in 0..4: of the 6 experts of a layer a rank holds 2 "
      "already");
  EXPECT_EQ(
      error(0, 3, MovingOptions(1)),
      "engine: redundant_experts 1 is not in 0..0: of the 0 experts of a layer a rank holds 0 "
      "already");
  EngineOptions cover = MovingOptions(0);
  cover.expert_cover = true;
  EXPECT_EQ(error(7, 3, cover),
            "engine: expert_cover: second copies of experts need room; give redundant_experts, 2 "
            "for all of them");
}

}  // namespace
}  // namespace choir
