// Leader and members together under a random schedule of losses, failures and restarts: whatever
// happens, all serving ranks serve one epoch, epochs only grow, and the group comes back.
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <random>

#include "worker/group/group_leader.h"
#include "worker/group/group_member.h"

namespace choir {
namespace {

constexpr uint32_t kRanks = 4;

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed) {
    StartLeader();
    for (uint32_t r = 0; r < kRanks; ++r) Start(r);
  }

  void RandomEvents(int count) {
    for (int i = 0; i < count; ++i) {
      now_ += std::chrono::milliseconds(random_() % 80);
      const auto r = static_cast<uint32_t>(random_() % kRanks);
      const uint64_t dice = random_() % 100;
      if (random_() % 50 == 0) stopped_ = static_cast<uint32_t>(random_() % (2 * kRanks));
      if (r == stopped_) continue;
      if (dice < 3) Start(r);  // killed and started again
      if (dice >= 3 && dice < 6) Disconnect(r);
      if (dice >= 6 && dice < 9)
        Do(r, ranks_[r].core->OnCollectiveFailed(ranks_[r].core->epoch(), Unavailable("x")));
      if (dice == 9) StartLeader();
      if (dice > 9) DeliverOne(r);
      Tick();
      Check();
    }
  }

  bool Settle() {
    stopped_ = kRanks;
    for (int i = 0; i < 4000; ++i) {
      now_ += std::chrono::milliseconds(10);
      for (uint32_t r = 0; r < kRanks; ++r) DeliverOne(r);
      Tick();
      Check();
    }
    for (const Rank& rank : ranks_) {
      if (!rank.core->serving() || rank.core->epoch() != leader_->epoch()) return false;
    }
    return leader_->running();
  }

 private:
  struct Rank {
    std::unique_ptr<GroupMember> core;
    MemberId stream = 0;           // 0: not connected
    std::deque<MemberAction> up;   // on the way to the leader
    std::deque<GroupAction> down;  // on the way to the member
    uint64_t served = 0;
  };

  MemberHello Hello(uint32_t r) {
    return {.protocol_version = 1,
            .rank = r,
            .group_size = kRanks,
            .incarnation = ++incarnation_,
            .numerics_id = "n",
            .host = "h",
            .pid = static_cast<int64_t>(incarnation_)};
  }

  void StartLeader() {
    MemberHello hello = Hello(0);
    leader_ = std::make_unique<GroupLeader>(GroupLeaderOptions{
        .leader = hello,
        .first_epoch = 1 + static_cast<uint64_t>(now_.time_since_epoch().count() / 1000000)});
    for (uint32_t r = 0; r < kRanks; ++r) {
      if (ranks_[r].core) Disconnect(r);
    }
  }

  void Start(uint32_t r) {
    if (ranks_[r].core) Disconnect(r);
    ranks_[r].core = std::make_unique<GroupMember>(Hello(r));
    ranks_[r].served = 0;
  }

  void Disconnect(uint32_t r) {
    Rank& rank = ranks_[r];
    const MemberId stream = rank.stream;
    rank.stream = 0;
    rank.up.clear();
    rank.down.clear();
    Do(r, rank.core->OnDisconnected("lost"));
    if (stream != 0) Do(leader_->OnLeft(stream, now_));
  }

  void DeliverOne(uint32_t r) {
    Rank& rank = ranks_[r];
    if (rank.stream == 0) {
      rank.stream = ++streams_;
      const MemberHello hello = rank.core->hello();
      Do(r, rank.core->OnConnected(now_));
      Do(leader_->OnJoin(rank.stream, hello, now_));
      return;
    }
    if (!rank.up.empty() && random_() % 2 == 0) {
      const MemberAction action = rank.up.front();
      rank.up.pop_front();
      leader_->OnHeard(rank.stream, now_);
      if (const auto* a = std::get_if<SendEndpoint>(&action))
        Do(leader_->OnEndpoint(rank.stream, a->epoch, a->endpoint, now_));
      if (const auto* a = std::get_if<SendReady>(&action))
        Do(leader_->OnReady(rank.stream, a->epoch, now_));
      if (const auto* a = std::get_if<SendFailed>(&action)) {
        Do(leader_->OnFailed(rank.stream, a->epoch, a->reason, now_));
      }
    } else if (!rank.down.empty()) {
      const GroupAction action = rank.down.front();
      rank.down.pop_front();
      rank.core->OnHeard(now_);
      if (const auto* a = std::get_if<ConnectEpoch>(&action))
        Do(r, rank.core->OnConnect(a->epoch, a->endpoints));
      if (const auto* a = std::get_if<PlanEpoch>(&action)) Do(r, rank.core->OnPlan(a->plan));
      if (const auto* a = std::get_if<StartEpoch>(&action)) Do(r, rank.core->OnStarted(a->epoch));
      if (const auto* a = std::get_if<EndEpoch>(&action))
        Do(r, rank.core->OnEnded(a->epoch, a->reason));
      if (const auto* a = std::get_if<TellGroup>(&action)) Do(r, rank.core->OnTold(a->waiting_for));
    }
  }

  void Tick() {
    for (uint32_t r = 0; r < kRanks; ++r) {
      if (r != stopped_ && ranks_[r].stream != 0) Do(r, ranks_[r].core->OnTick(now_));
    }
    if (leader_->next_tick() && now_ >= *leader_->next_tick()) Do(leader_->OnTick(now_));
  }

  void Do(const GroupActions& actions) {
    for (const GroupAction& action : actions) {
      if (const auto* refused = std::get_if<RefuseMember>(&action)) {
        for (uint32_t r = 0; r < kRanks; ++r) {
          if (ranks_[r].stream == refused->member) Disconnect(r);
        }
        continue;
      }
      for (Rank& rank : ranks_) {
        if (rank.stream != 0) rank.down.push_back(action);
      }
    }
  }

  void Do(uint32_t r, const MemberActions& actions) {
    for (const MemberAction& action : actions) {
      if (const auto* a = std::get_if<OpenExchange>(&action)) {
        const bool fails = random_() % 10 == 0;
        Do(r, ranks_[r].core->OnOpened(a->plan.epoch,
                                       fails ? StatusOr<ExchangeEndpoint>(Unavailable("no"))
                                             : ExchangeEndpoint{.mesh = std::to_string(r)}));
      } else if (const auto* c = std::get_if<SetUpExchange>(&action)) {
        for (uint32_t i = 0; i < kRanks; ++i) EXPECT_EQ(c->endpoints[i].mesh, std::to_string(i));
        const bool fails = random_() % 10 == 0;
        Do(r,
           ranks_[r].core->OnSetUp(c->epoch, fails ? Status(Unavailable("no")) : absl::OkStatus()));
      } else if (std::get_if<Reconnect>(&action) != nullptr) {
        Disconnect(r);
      } else if (const auto* s = std::get_if<ServeEpoch>(&action)) {
        EXPECT_GT(s->epoch, ranks_[r].served) << "epochs of a process only grow";
        ranks_[r].served = s->epoch;
        EXPECT_GE(s->epoch, highest_served_)
            << "nobody starts to serve an epoch older than another served";
        highest_served_ = std::max(highest_served_, s->epoch);
      } else if (ranks_[r].stream != 0) {
        ranks_[r].up.push_back(action);
      }
    }
  }

  void Check() const {
    if (!leader_->running()) return;
    for (const Rank& rank : ranks_) EXPECT_LE(rank.core->epoch(), leader_->epoch());
  }

  std::mt19937_64 random_;
  MonoTime now_{std::chrono::hours(1)};
  std::unique_ptr<GroupLeader> leader_;
  Rank ranks_[kRanks];
  uint32_t stopped_ = kRanks;  // a rank whose process does nothing; kRanks and above: none
  uint64_t incarnation_ = 0;
  MemberId streams_ = 0;
  uint64_t highest_served_ = 0;
};

TEST(GroupSimulation, AlwaysComesBackToOneEpochServedByAll) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Simulation simulation(seed);
    simulation.RandomEvents(600);
    EXPECT_TRUE(simulation.Settle()) << "seed " << seed;
    if (HasFailure()) break;
  }
}

}  // namespace
}  // namespace choir
