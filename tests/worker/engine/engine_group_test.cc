// Engines as ranks of a group: stepping together, idling, losing an epoch.
#include "tests/support/engine_group.h"

#include <gtest/gtest.h>

#include "worker/engine/engine.h"

namespace choir {
namespace {

const FakeModelOptions kMoe = {.num_experts = 5};

class Group : public EngineGroup {
 public:
  explicit Group(int num_ranks, const FakeModelOptions& model = kMoe)
      : EngineGroup(num_ranks, model) {}
};

TEST(EngineGroupTest, AnyNumberOfRanksGivesTheSameTokens) {
  for (const int num_ranks : {1, 2, 3, 4}) {
    Group group(num_ranks);
    group.Start();
    group.SetEpoch(1);
    std::vector<SequenceRequest> requests;
    for (uint64_t id = 1; id <= 20; ++id) {
      requests.push_back(MakeRequest(id, 1 + static_cast<int32_t>(id * 3 % 40),
                                     1 + static_cast<int32_t>(id * 5 % 20)));
      ASSERT_TRUE(group.rank(id % group.size()).Submit(requests.back()).ok());
    }
    for (const auto& request : requests) {
      const uint64_t id = request.id.value();
      EXPECT_EQ(group.rank(id % group.size()).Wait(id).tokens, FakeAnswer(request));
    }
  }
}

TEST(EngineGroupTest, RanksWithoutWorkHelpTheOneThatHasSome) {
  Group group(3);
  group.Start();
  group.SetEpoch(1);
  for (uint64_t id = 1; id <= 5; ++id) {  // idle again after each
    const auto request = MakeRequest(id, 10, 8);
    EngineHarness& rank = group.rank(id % 3);
    ASSERT_TRUE(rank.Submit(request).ok());
    EXPECT_EQ(rank.Wait(id).tokens, FakeAnswer(request));
  }
}

TEST(EngineGroupTest, AModelWithoutExpertsNeedsNoPeers) {
  Group group(2, FakeModelOptions{});
  group.rank(0).Start();  // the other one never runs
  group.SetEpoch(1);
  const auto request = MakeRequest(1, 10, 8);
  ASSERT_TRUE(group.rank(0).Submit(request).ok());
  EXPECT_EQ(group.rank(0).Wait(1).tokens, FakeAnswer(request));
}

TEST(EngineGroupTest, WaitsForAnEpochWithoutRefusing) {
  Group group(2);
  group.Start();
  const auto request = MakeRequest(1, 10, 8);
  ASSERT_TRUE(group.rank(1).Submit(request).ok());
  group.SetEpoch(1);
  EXPECT_EQ(group.rank(1).Wait(1).tokens, FakeAnswer(request));
  EXPECT_EQ(group.rank(1).num_failures(), 0u);
}

TEST(EngineGroupTest, ALostEpochEndsItsSequencesAndAReplayContinuesThem) {
  for (int64_t fail_at = 0; fail_at < 40; fail_at += 3) {
    Group group(2);
    const auto a = MakeRequest(1, 20, 30), b = MakeRequest(2, 6, 30);
    ASSERT_TRUE(group.rank(0).Submit(a).ok());
    ASSERT_TRUE(group.rank(1).Submit(b).ok());
    group.SetFaultyEpoch(1, 1, fail_at);
    group.Start();
    const Answer lost_a = group.rank(0).Wait(1), lost_b = group.rank(1).Wait(2);
    EXPECT_EQ(lost_a.finish, Finish::kLost) << "failed at " << fail_at;
    EXPECT_EQ(lost_b.finish, Finish::kLost);
    for (size_t r = 0; r < 2; ++r) {
      const auto [generation, status] = group.rank(r).WaitForFailure();
      EXPECT_EQ(generation, 1u);
      EXPECT_EQ(MessageOf(status), "injected fault");
    }
    group.SetEpoch(2);
    ASSERT_TRUE(group.rank(1).Submit(ReplayOf(a, 11, lost_a.tokens)).ok());  // on another rank
    ASSERT_TRUE(group.rank(1).Submit(ReplayOf(b, 12, lost_b.tokens)).ok());
    auto whole_a = lost_a.tokens, whole_b = lost_b.tokens;
    for (const int32_t t : group.rank(1).Wait(11).tokens) whole_a.push_back(t);
    for (const int32_t t : group.rank(1).Wait(12).tokens) whole_b.push_back(t);
    EXPECT_EQ(whole_a, FakeAnswer(a));
    EXPECT_EQ(whole_b, FakeAnswer(b));
    EXPECT_EQ(group.rank(1).engine().stats().ledger_difference, 0);
  }
}

TEST(EngineGroupTest, AnIdleEpochThatDiesIsNoticed) {
  Group group(2);
  group.Start();
  auto collectives = MakeLocalCollectives(2, 7, {});
  std::vector<std::shared_ptr<Collectives>> shared;
  for (auto& c : collectives) shared.push_back(std::move(c));
  for (size_t r = 0; r < 2; ++r) group.rank(r).engine().SetEpoch(shared[r]);
  const auto request = MakeRequest(1, 4, 4);
  ASSERT_TRUE(group.rank(0).Submit(request).ok());
  group.rank(0).Wait(1);
  shared[0]->Abort(Unavailable("rank 1 is gone"));
  for (size_t r = 0; r < 2; ++r) {
    EXPECT_EQ(group.rank(r).WaitForFailure().first, 7u);
  }
}

TEST(EngineGroupTest, TheNextEpochEndsTheOneBeforeWithoutAFailure) {
  Group group(1);
  EngineHarness& rank = group.rank(0);
  rank.engine().SetEpoch(MakeSingleCollectives(1));
  rank.Start();
  rank.HoldAt(1, 2);
  ASSERT_TRUE(rank.Submit(MakeRequest(1, 4, 1500)).ok());
  rank.WaitForTokens(1, 2);
  rank.engine().SetEpoch(MakeSingleCollectives(2));
  rank.Release();
  EXPECT_EQ(rank.Wait(1).finish, Finish::kLost);
  const auto next = MakeRequest(2, 4, 5);
  ASSERT_TRUE(rank.Submit(next).ok());
  EXPECT_EQ(rank.Wait(2).tokens, FakeAnswer(next));
  EXPECT_EQ(rank.num_failures(), 0u);
}

TEST(EngineGroupTest, ARankThatStopsEndsTheEpochOfItsPeersAtOnce) {
  Group group(2);
  group.Start();
  group.SetEpoch(1);
  group.rank(0).HoldAt(1, 3);
  ASSERT_TRUE(group.rank(0).Submit(MakeRequest(1, 4, 1500)).ok());
  group.rank(0).WaitForTokens(1, 3);
  group.rank(1).Stop();
  group.rank(0).Release();
  EXPECT_EQ(group.rank(0).Wait(1).finish, Finish::kLost);
  const auto [generation, status] = group.rank(0).WaitForFailure();
  EXPECT_NE(MessageOf(status).find("rank 1 stops"), std::string::npos) << status;
}

TEST(EngineGroupTest, AnEpochOfAnotherSizeIsRefused) {
  Group group(2);
  group.Start();
  group.rank(0).engine().SetEpoch(MakeSingleCollectives(3));
  const auto [generation, status] = group.rank(0).WaitForFailure();
  EXPECT_EQ(generation, 3u);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

// Counts the naps of an idle engine and says when it lies down.
class NapCounter final : public Collectives {
 public:
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  uint64_t generation() const override { return inner_->generation(); }
  std::string name() const override { return inner_->name(); }
  Status Barrier() override { return inner_->Barrier(); }
  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    return inner_->AllGather(in, out);
  }
  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return inner_->AllToAllV(send, send_bytes, recv, recv_bytes);
  }
  void Announce(uint64_t step) override { inner_->Announce(step); }
  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    {
      std::lock_guard lock(mu_);
      ++naps_;
      shortest_ = std::min(shortest_, timeout);
      changed_.notify_all();
    }
    return inner_->WaitForAnnounce(step, std::chrono::hours(1));  // only a wake ends it
  }
  void Wake() override { inner_->Wake(); }
  void Abort(const Status& reason) override { inner_->Abort(reason); }
  Status status() const override { return inner_->status(); }

  int WaitForNaps(int count) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return naps_ >= count; });
    return naps_;
  }
  Duration shortest() {
    std::lock_guard lock(mu_);
    return shortest_;
  }

 private:
  const std::unique_ptr<Collectives> inner_ = MakeSingleCollectives(1);
  std::mutex mu_;
  std::condition_variable changed_;
  int naps_ = 0;
  Duration shortest_ = std::chrono::hours(24);
};

TEST(EngineGroupTest, AnIdleEngineSleepsUntilItIsWoken) {
  EngineHarness harness(SmallEngineOptions());
  auto naps = std::make_shared<NapCounter>();
  harness.engine().SetEpoch(naps);
  harness.Start();
  int count = naps->WaitForNaps(1);
  for (uint64_t id = 1; id <= 20; ++id) {
    ASSERT_TRUE(harness.Submit(MakeRequest(id, 4, 3)).ok());
    EXPECT_EQ(harness.Wait(id).finish, Finish::kLength);
    count = naps->WaitForNaps(count + 1);
  }
  EXPECT_LE(count, 1 + 20 * 2);  // a nap after the work, and at most one more that a late wake cut
  EXPECT_GE(naps->shortest(), std::chrono::milliseconds(500));
  harness.Stop();
  EXPECT_LE(harness.engine().stats().rounds, 20u * 6 + 5);
}

}  // namespace
}  // namespace choir
