// Leader and ranks over loopback gRPC and shared memory, as threads of one process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "worker/rpc/group_client.h"
#include "worker/rpc/worker_server.h"

namespace choir {
namespace {

using ::testing::HasSubstr;

MemberHello Hello(uint32_t rank, uint64_t incarnation, uint32_t size) {
  return {.protocol_version = 1,
          .build = "test",
          .group = 0,
          .rank = rank,
          .group_size = size,
          .incarnation = incarnation,
          .numerics_id = "n",
          .host = "h",
          .pid = getpid(),
          .address = "a"};
}

// A rank as the worker process uses it.
class Rank {
 public:
  Rank(const std::string& leader, const MemberHello& self) {
    GroupClientOptions options{.leader = leader, .self = self};
    options.retry_max = std::chrono::milliseconds(50);
    options.mesh_address = []() -> StatusOr<std::string> { return std::string("127.0.0.1"); };
    options.on_epoch = [this](std::shared_ptr<Collectives> c) {
      std::lock_guard lock(mu_);
      collectives_ = std::move(c);
      changed_.notify_all();
    };
    options.on_status = [this](const GroupStatus& s) {
      std::lock_guard lock(mu_);
      status_ = s;
      changed_.notify_all();
    };
    client_ = GroupClient::Start(std::move(options));
  }

  // Waits for an epoch above `after`; nullptr when none comes.
  std::shared_ptr<Collectives> WaitForEpoch(uint64_t after = 0) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] {
      return collectives_ != nullptr && collectives_->generation() > after;
    });
    return collectives_ != nullptr && collectives_->generation() > after ? collectives_ : nullptr;
  }
  GroupStatus WaitFor(const std::function<bool(const GroupStatus&)>& is) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return is(status_); });
    return status_;
  }
  GroupClient& client() { return *client_; }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::shared_ptr<Collectives> collectives_;
  GroupStatus status_;
  std::unique_ptr<GroupClient> client_;
};

class GroupRpcTest : public ::testing::Test {
 protected:
  void StartLeader(uint32_t size, uint64_t first_epoch = 100,
                   const std::string& listen = "127.0.0.1:0") {
    auto server = WorkerServer::Start({.listen = listen, .identity = {.group_size = size}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
    server_->LeadGroup({.leader = Hello(0, 1, size), .first_epoch = first_epoch});
  }
  std::unique_ptr<Rank> Start(uint32_t rank, uint64_t incarnation, uint32_t size) {
    return std::make_unique<Rank>(server_->address(), Hello(rank, incarnation, size));
  }
  std::unique_ptr<WorkerServer> server_;
};

TEST_F(GroupRpcTest, RanksFormAnEpochAndTheirCollectivesWork) {
  StartLeader(3);
  auto a = Start(0, 1, 3), b = Start(1, 1, 3);
  EXPECT_EQ(a->WaitFor([](const auto& s) { return s.reason == "waiting for ranks 2"; }).reason,
            "waiting for ranks 2");
  auto c = Start(2, 1, 3);
  std::vector<std::jthread> threads;
  for (Rank* rank : {a.get(), b.get(), c.get()}) {
    threads.emplace_back([rank] {
      const auto collectives = rank->WaitForEpoch();
      ASSERT_NE(collectives, nullptr);
      EXPECT_EQ(collectives->generation(), 100u);
      EXPECT_TRUE(collectives->Barrier().ok());
      EXPECT_TRUE(rank->WaitFor([](const auto& s) { return s.serving; }).serving);
    });
  }
}

TEST_F(GroupRpcTest, RanksOnSeveralHostsFormOneGroup) {
  signal(SIGPIPE, SIG_IGN);
  StartLeader(3);
  std::vector<std::unique_ptr<Rank>> ranks;
  for (uint32_t r = 0; r < 3; ++r) {
    MemberHello hello = Hello(r, 1, 3);
    hello.host = r == 1 ? "there" : "here";
    ranks.push_back(std::make_unique<Rank>(server_->address(), hello));
  }
  std::vector<std::jthread> threads;
  for (const auto& rank : ranks) {
    threads.emplace_back([&rank] {
      const auto collectives = rank->WaitForEpoch();
      ASSERT_NE(collectives, nullptr);
      EXPECT_THAT(collectives->name(), HasSubstr("gloo"));
      EXPECT_TRUE(collectives->Barrier().ok());
      EXPECT_TRUE(rank->WaitFor([](const auto& s) { return s.serving; }).serving);
    });
  }
  threads.clear();
  const uint64_t first = ranks[0]->WaitForEpoch()->generation();
  ranks[1].reset();
  EXPECT_FALSE(ranks[2]->WaitFor([](const auto& s) { return !s.serving; }).serving);
  MemberHello hello = Hello(1, 2, 3);
  hello.host = "there";
  ranks[1] = std::make_unique<Rank>(server_->address(), hello);
  EXPECT_NE(ranks[2]->WaitForEpoch(first), nullptr);
}

TEST_F(GroupRpcTest, ALostRankEndsTheEpochAndItsSuccessorFormsTheNext) {
  StartLeader(2);
  auto a = Start(0, 1, 2), b = Start(1, 1, 2);
  const auto first = a->WaitForEpoch();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(b->WaitForEpoch(), nullptr);
  b.reset();
  EXPECT_FALSE(a->WaitFor([](const auto& s) { return !s.serving; }).serving);
  EXPECT_FALSE(first->Barrier().ok());
  b = Start(1, 2, 2);
  const auto next = a->WaitForEpoch(first->generation());
  ASSERT_NE(next, nullptr);
  const auto theirs = b->WaitForEpoch();
  ASSERT_NE(theirs, nullptr);
  EXPECT_EQ(theirs->generation(), next->generation());
}

TEST_F(GroupRpcTest, AFailedCollectiveGivesEveryRankANewEpoch) {
  StartLeader(2);
  auto a = Start(0, 1, 2), b = Start(1, 1, 2);
  const auto first = b->WaitForEpoch();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(a->WaitForEpoch(), nullptr);
  first->Abort(Unavailable("test"));
  b->client().CollectiveFailed(first->generation(), first->status());
  EXPECT_NE(a->WaitForEpoch(first->generation()), nullptr);
  EXPECT_NE(b->WaitForEpoch(first->generation()), nullptr);
}

TEST_F(GroupRpcTest, RanksComeBackToARestartedLeaderWithAHigherEpoch) {
  StartLeader(2, 1000);
  auto a = Start(0, 1, 2), b = Start(1, 1, 2);
  ASSERT_NE(a->WaitForEpoch(), nullptr);
  ASSERT_NE(b->WaitForEpoch(), nullptr);
  const std::string address = server_->address();
  server_.reset();
  EXPECT_FALSE(b->WaitFor([](const auto& s) { return !s.serving; }).serving);
  StartLeader(2, 1, address);  // its clock is behind
  const auto next = b->WaitForEpoch(1000);
  ASSERT_NE(next, nullptr);
  EXPECT_NE(a->WaitForEpoch(1000), nullptr);
}

TEST_F(GroupRpcTest, ARefusedRankHearsWhy) {
  StartLeader(2);
  MemberHello hello = Hello(1, 1, 2);
  hello.numerics_id = "other";
  Rank rank(server_->address(), hello);
  const GroupStatus status =
      rank.WaitFor([](const auto& s) { return s.reason.find("numerics") != std::string::npos; });
  EXPECT_THAT(status.reason, HasSubstr("rank 1 at a"));
  EXPECT_FALSE(status.serving);
}

TEST_F(GroupRpcTest, ARankThatWaitsForALoadingLeaderSaysSo) {
  auto server = WorkerServer::Start({.listen = "127.0.0.1:0"});
  ASSERT_TRUE(server.ok());
  server_ = std::move(*server);
  auto rank = Start(0, 1, 1);
  EXPECT_THAT(
      rank->WaitFor([](const auto& s) { return s.reason.find("loading") != std::string::npos; })
          .reason,
      HasSubstr("still loading"));
  server_->LeadGroup({.leader = Hello(0, 1, 1), .first_epoch = 1});
  EXPECT_NE(rank->WaitForEpoch(), nullptr);
}

TEST_F(GroupRpcTest, AllRanksHearThatTheGroupDrainsAndWhenAllAreDone) {
  StartLeader(2);
  auto a = Start(0, 1, 2), b = Start(1, 1, 2);
  ASSERT_NE(a->WaitForEpoch(), nullptr);
  ASSERT_NE(b->WaitForEpoch(), nullptr);
  a->client().SetDrain(DrainStage::kRunning);
  EXPECT_EQ(
      b->WaitFor([](const auto& s) { return s.group_drain == DrainStage::kRunning; }).group_drain,
      DrainStage::kRunning);
  a->client().SetDrain(DrainStage::kDone);
  b->client().SetDrain(DrainStage::kDone);
  EXPECT_EQ(
      a->WaitFor([](const auto& s) { return s.group_drain == DrainStage::kDone; }).group_drain,
      DrainStage::kDone);
}

}  // namespace
}  // namespace choir
