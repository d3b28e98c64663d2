#include "worker/group/group_member.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using namespace std::chrono_literals;

const MonoTime kStart = MonoTime{} + 1h;

MemberHello Self() { return {.rank = 1, .group_size = 2, .incarnation = 4, .pid = 44}; }

EpochPlan Plan(uint64_t epoch) {
  EpochPlan plan{.epoch = epoch};
  plan.members = {{.rank = 0, .group_size = 2, .incarnation = 3, .pid = 33}, Self()};
  return plan;
}

template <typename T>
const T* Only(const MemberActions& actions) {
  return actions.size() == 1 ? std::get_if<T>(&actions[0]) : nullptr;
}

TEST(GroupMember, GoesFromPlanOverReadyToServing) {
  GroupMember member(Self());
  EXPECT_FALSE(member.serving());
  EXPECT_TRUE(member.OnConnected(kStart).empty());
  member.OnTold("ranks 0");
  EXPECT_EQ(member.reason(), "waiting for ranks 0");
  const MemberActions plan = member.OnPlan(Plan(7));
  ASSERT_NE(Only<OpenExchange>(plan), nullptr);
  const MemberActions opened = member.OnOpened(7, ExchangeEndpoint{.mesh = "b"});
  ASSERT_NE(Only<SendEndpoint>(opened), nullptr);
  EXPECT_EQ(Only<SendEndpoint>(opened)->endpoint.mesh, "b");
  EXPECT_TRUE(member.OnConnect(6, {}).empty()) << "another epoch's";
  const MemberActions connect = member.OnConnect(7, {{.mesh = "a"}, {.mesh = "b"}});
  ASSERT_NE(Only<SetUpExchange>(connect), nullptr);
  EXPECT_EQ(Only<SetUpExchange>(connect)->endpoints.size(), 2u);
  const MemberActions ready = member.OnSetUp(7, absl::OkStatus());
  ASSERT_NE(Only<SendReady>(ready), nullptr);
  EXPECT_FALSE(member.serving());
  const MemberActions started = member.OnStarted(7);
  ASSERT_NE(Only<ServeEpoch>(started), nullptr);
  EXPECT_TRUE(member.serving());
  EXPECT_EQ(member.epoch(), 7u);
  EXPECT_EQ(member.reason(), "");
  EXPECT_EQ(member.hello().last_epoch, 7u);
}

GroupMember Serving(uint64_t epoch) {
  GroupMember member(Self());
  member.OnConnected(kStart);
  member.OnPlan(Plan(epoch));
  member.OnOpened(epoch, ExchangeEndpoint{});
  member.OnConnect(epoch, {{}, {}});
  member.OnSetUp(epoch, absl::OkStatus());
  member.OnStarted(epoch);
  return member;
}

TEST(GroupMember, DropsItsEpochWhenTheLeaderEndsItOrIsLost) {
  GroupMember member = Serving(7);
  EXPECT_TRUE(member.OnEnded(6, "old").empty());
  const MemberActions ended = member.OnEnded(7, "rank 0 left");
  ASSERT_NE(Only<DropEpoch>(ended), nullptr);
  EXPECT_EQ(member.reason(), "rank 0 left");
  EXPECT_FALSE(member.serving());

  member = Serving(8);
  const MemberActions lost = member.OnDisconnected("connection refused");
  ASSERT_NE(Only<DropEpoch>(lost), nullptr);
  EXPECT_EQ(member.reason(), "connection refused");
}

TEST(GroupMember, ReportsAFailedCollectiveOnce) {
  GroupMember member = Serving(7);
  const MemberActions out = member.OnCollectiveFailed(7, Unavailable("rank 0 died"));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_NE(std::get_if<DropEpoch>(&out[0]), nullptr);
  ASSERT_NE(std::get_if<SendFailed>(&out[1]), nullptr);
  EXPECT_EQ(std::get_if<SendFailed>(&out[1])->reason, "rank 0 died");
  EXPECT_TRUE(member.OnCollectiveFailed(7, Unavailable("again")).empty());
}

TEST(GroupMember, ReportsAnExchangeThatCannotBeSetUp) {
  GroupMember member(Self());
  member.OnConnected(kStart);
  member.OnPlan(Plan(7));
  MemberActions out = member.OnOpened(7, Unavailable("no memory"));
  ASSERT_EQ(out.size(), 2u);
  ASSERT_NE(std::get_if<SendFailed>(&out[1]), nullptr);
  EXPECT_EQ(std::get_if<SendFailed>(&out[1])->reason, "no memory");
  EXPECT_TRUE(member.OnConnect(7, {{}, {}}).empty());
  member.OnPlan(Plan(8));
  member.OnOpened(8, ExchangeEndpoint{});
  member.OnConnect(8, {{}, {}});
  out = member.OnSetUp(8, Unavailable("no segment"));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_NE(std::get_if<SendFailed>(&out[1]), nullptr);
  EXPECT_TRUE(member.OnStarted(8).empty());
  EXPECT_FALSE(member.serving());
}

TEST(GroupMember, RefusesAPlanThatIsNotForThisProcess) {
  for (int broken = 0; broken < 4; ++broken) {
    GroupMember member(Self());
    member.OnConnected(kStart);
    EpochPlan plan = Plan(7);
    if (broken == 0) plan.members[1].incarnation = 9;
    if (broken == 1) plan.members.pop_back();
    if (broken == 2) plan.members[0].rank = 1;
    if (broken == 3) plan.members[1].pid = 45;
    const MemberActions out = member.OnPlan(plan);
    ASSERT_NE(Only<SendFailed>(out), nullptr) << broken;
    EXPECT_EQ(member.epoch(), 0u);
  }
}

TEST(GroupMember, OldEpochsNeverComeBack) {
  GroupMember member = Serving(7);
  EXPECT_TRUE(member.OnPlan(Plan(7)).empty());
  EXPECT_TRUE(member.OnPlan(Plan(3)).empty());
  EXPECT_TRUE(member.serving());
  const MemberActions next = member.OnPlan(Plan(9));
  ASSERT_EQ(next.size(), 2u);
  EXPECT_NE(std::get_if<DropEpoch>(&next[0]), nullptr);
  EXPECT_TRUE(member.OnStarted(7).empty());
}

TEST(GroupMember, LeavesALeaderThatIsSilentAndTellsItThatItIsAliveItself) {
  GroupMember member = Serving(7);
  int beats = 0;
  MonoTime now = kStart;
  while (true) {
    ASSERT_LT(beats, 20);
    now = *member.next_tick();
    if (beats < 3) member.OnHeard(now);
    const MemberActions out = member.OnTick(now);
    ASSERT_EQ(out.size(), 1u);
    if (const auto* cut = std::get_if<Reconnect>(&out[0])) {
      EXPECT_THAT(cut->reason, ::testing::HasSubstr("silent"));
      break;
    }
    EXPECT_NE(std::get_if<BeatMember>(&out[0]), nullptr);
    ++beats;
  }
  EXPECT_EQ(now, kStart + 8s);
  EXPECT_NE(Only<DropEpoch>(member.OnDisconnected("silent")), nullptr);
  EXPECT_FALSE(member.next_tick().has_value());
}

TEST(GroupMember, ARankThatWasStoppedItselfDoesNotBlameItsLeader) {
  GroupMember member = Serving(7);
  const MemberActions woken = member.OnTick(kStart + 60s);
  EXPECT_NE(Only<BeatMember>(woken), nullptr);
  EXPECT_TRUE(member.serving());
}

}  // namespace
}  // namespace choir
