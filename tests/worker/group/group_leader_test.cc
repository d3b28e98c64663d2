#include "worker/group/group_leader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

MemberHello Hello(uint32_t rank, uint64_t incarnation = 1) {
  return {.protocol_version = 1,
          .build = "test",
          .group = 0,
          .rank = rank,
          .group_size = 3,
          .incarnation = incarnation,
          .numerics_id = "n1",
          .model = "m",
          .dtype = "bf16",
          .kernels = "avx2",
          .placement = "2 every 256 steps",
          .host = "here",
          .pid = 100 + rank,
          .address = fmt::format("127.0.0.1:{}", 7100 + rank)};
}

MonoTime At(Duration d) { return MonoTime{} + std::chrono::hours(1) + d; }

template <typename T>
const T* Get(const GroupActions& actions) {
  for (const GroupAction& a : actions) {
    if (const T* found = std::get_if<T>(&a)) return found;
  }
  return nullptr;
}

class GroupLeaderTest : public ::testing::Test {
 protected:
  GroupLeader leader_{{.leader = Hello(0), .first_epoch = 1000}};

  // Members 10, 11, 12 are ranks 0, 1, 2. Returns the epoch that runs.
  uint64_t FormGroup() {
    leader_.OnJoin(10, Hello(0), At(0s));
    leader_.OnJoin(11, Hello(1), At(0s));
    const GroupActions planned = leader_.OnJoin(12, Hello(2), At(0s));
    const PlanEpoch* plan = Get<PlanEpoch>(planned);
    EXPECT_NE(plan, nullptr);
    return StartAll();
  }
  uint64_t StartAll() {
    const uint64_t epoch = leader_.epoch();
    for (const MemberId m : {10, 11, 12}) leader_.OnEndpoint(m, epoch, {}, At(0s));
    for (const MemberId m : {10, 11, 12}) leader_.OnReady(m, epoch, At(0s));
    EXPECT_TRUE(leader_.running());
    return epoch;
  }
};

TEST_F(GroupLeaderTest, PlansWhenAllAreThereAndStartsWhenAllAreReady) {
  GroupActions out = leader_.OnJoin(10, Hello(0), At(0s));
  EXPECT_EQ(Get<PlanEpoch>(out), nullptr);
  ASSERT_NE(Get<TellGroup>(out), nullptr);
  EXPECT_EQ(Get<TellGroup>(out)->waiting_for, "ranks 1 2");
  leader_.OnJoin(12, Hello(2), At(0s));
  EXPECT_EQ(leader_.WaitingFor(), "ranks 1");
  out = leader_.OnJoin(11, Hello(1), At(0s));
  const PlanEpoch* plan = Get<PlanEpoch>(out);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->plan.epoch, 1000u);
  ASSERT_EQ(plan->plan.members.size(), 3u);
  for (uint32_t r = 0; r < 3; ++r) EXPECT_EQ(plan->plan.members[r].rank, r);

  EXPECT_EQ(Get<ConnectEpoch>(leader_.OnEndpoint(11, 1000, {.mesh = "b"}, At(0s))), nullptr);
  leader_.OnEndpoint(12, 1000, {.mesh = "c"}, At(0s));
  EXPECT_TRUE(leader_.OnEndpoint(12, 1000, {.mesh = "d"}, At(0s)).empty()) << "the first counts";
  out = leader_.OnEndpoint(10, 1000, {.segment = "s", .mesh = "a"}, At(0s));
  const ConnectEpoch* connect = Get<ConnectEpoch>(out);
  ASSERT_NE(connect, nullptr);
  EXPECT_EQ(connect->epoch, 1000u);
  EXPECT_EQ(connect->endpoints, (std::vector<ExchangeEndpoint>{{"s", "a"}, {"", "b"}, {"", "c"}}));

  EXPECT_EQ(Get<StartEpoch>(leader_.OnReady(10, 1000, At(0s))), nullptr);
  EXPECT_EQ(Get<StartEpoch>(leader_.OnReady(10, 1000, At(0s))), nullptr) << "twice is once";
  leader_.OnReady(11, 1000, At(0s));
  EXPECT_EQ(leader_.WaitingFor(), "ranks 2 to set up epoch 1000");
  out = leader_.OnReady(12, 1000, At(0s));
  ASSERT_NE(Get<StartEpoch>(out), nullptr);
  EXPECT_EQ(Get<StartEpoch>(out)->epoch, 1000u);
  EXPECT_TRUE(leader_.running());
  EXPECT_EQ(leader_.WaitingFor(), "");
}

TEST_F(GroupLeaderTest, ALossEndsTheEpochAndItsReturnFormsTheNext) {
  const uint64_t epoch = FormGroup();
  GroupActions out = leader_.OnLeft(11, At(1s));
  ASSERT_NE(Get<EndEpoch>(out), nullptr);
  EXPECT_EQ(Get<EndEpoch>(out)->epoch, epoch);
  EXPECT_EQ(Get<EndEpoch>(out)->reason, "rank 1 left");
  EXPECT_EQ(Get<PlanEpoch>(out), nullptr);
  EXPECT_EQ(Get<TellGroup>(out)->waiting_for, "ranks 1");
  out = leader_.OnJoin(20, Hello(1, 2), At(2s));
  ASSERT_NE(Get<PlanEpoch>(out), nullptr);
  EXPECT_EQ(Get<PlanEpoch>(out)->plan.epoch, epoch + 1);
  EXPECT_EQ(Get<PlanEpoch>(out)->plan.members[1].incarnation, 2u);
}

TEST_F(GroupLeaderTest, AFailedCollectiveReformsAtOnceWithEverybodyThere) {
  const uint64_t epoch = FormGroup();
  const GroupActions out = leader_.OnFailed(12, epoch, "ring is corrupt", At(1s));
  ASSERT_NE(Get<EndEpoch>(out), nullptr);
  EXPECT_EQ(Get<EndEpoch>(out)->reason, "rank 2: ring is corrupt");
  ASSERT_NE(Get<PlanEpoch>(out), nullptr);
  EXPECT_EQ(Get<PlanEpoch>(out)->plan.epoch, epoch + 1);
}

TEST_F(GroupLeaderTest, WordsAboutOtherEpochsAndFromStrangersHaveNoEffect) {
  const uint64_t epoch = FormGroup();
  EXPECT_TRUE(leader_.OnFailed(12, epoch - 1, "old news", At(1s)).empty());
  EXPECT_TRUE(leader_.OnFailed(99, epoch, "stranger", At(1s)).empty());
  EXPECT_TRUE(leader_.OnReady(12, epoch + 5, At(1s)).empty());
  EXPECT_TRUE(leader_.OnEndpoint(12, epoch, {}, At(1s)).empty());
  EXPECT_TRUE(leader_.OnLeft(99, At(1s)).empty());
  EXPECT_TRUE(leader_.running());
}

TEST_F(GroupLeaderTest, RefusesAMismatchAndNamesRankAndDifference) {
  const auto refusal = [&](MemberHello hello) {
    const GroupActions out = leader_.OnJoin(50, hello, At(0s));
    const RefuseMember* refused = Get<RefuseMember>(out);
    return refused == nullptr ? std::string() : MessageOf(refused->reason);
  };
  MemberHello h = Hello(1);
  h.protocol_version = 9;
  EXPECT_THAT(refusal(h), HasSubstr("rank 1 at 127.0.0.1:7101 (process 101) speaks protocol 9"));
  h = Hello(1);
  h.placement = "1 every 256 steps";
  EXPECT_THAT(refusal(h),
              HasSubstr("has redundant experts 1 every 256 steps, its leader 2 every 256 "
                        "steps; give all ranks the same --redundant-experts"));
  h = Hello(1);
  h.numerics_id = "n2";
  EXPECT_THAT(refusal(h), HasSubstr("rank 1 at 127.0.0.1:7101 (process 101) has numerics id n2"));
  h.kernels = "avx512";
  EXPECT_THAT(refusal(h), HasSubstr("(process 101) has kernels avx512, its leader avx2"));
  h.dtype = "f32";
  EXPECT_THAT(refusal(h), HasSubstr("(process 101) has dtype f32, its leader bf16"));
  h.model = "other";
  EXPECT_THAT(refusal(h), HasSubstr("(process 101) has model other, its leader m"));
  h.build = "newer";
  EXPECT_THAT(refusal(h), HasSubstr("(process 101) has version newer, its leader test"));
  h = Hello(1);
  h.group_size = 4;
  EXPECT_THAT(refusal(h), HasSubstr("counts 4 ranks"));
  h = Hello(3);
  EXPECT_THAT(refusal(h), HasSubstr("rank 3"));
  h = Hello(1);
  h.group = 7;
  EXPECT_THAT(refusal(h), HasSubstr("group 7"));
  h = Hello(1);
  h.last_epoch = UINT64_MAX;
  EXPECT_THAT(refusal(h), HasSubstr("claims"));
  EXPECT_EQ(leader_.num_members(), 0u);
}

TEST_F(GroupLeaderTest, ALaterStartedProcessTakesARankOverAndAnEarlierOneIsRefused) {
  const uint64_t epoch = FormGroup();
  GroupActions out = leader_.OnJoin(30, Hello(1, 5), At(1s));
  ASSERT_NE(Get<RefuseMember>(out), nullptr);
  EXPECT_EQ(Get<RefuseMember>(out)->member, 11u);
  ASSERT_NE(Get<EndEpoch>(out), nullptr);
  ASSERT_NE(Get<PlanEpoch>(out), nullptr);
  EXPECT_EQ(leader_.epoch(), epoch + 1);
  out = leader_.OnJoin(31, Hello(1, 4), At(1s));
  ASSERT_NE(Get<RefuseMember>(out), nullptr);
  EXPECT_EQ(Get<RefuseMember>(out)->member, 31u);
  EXPECT_EQ(Get<EndEpoch>(out), nullptr);
  EXPECT_TRUE(leader_.OnLeft(11, At(2s)).empty()) << "the replaced stream's end is no news";
}

TEST_F(GroupLeaderTest, EpochsGoOnAboveWhatAnyRankHasSeen) {
  leader_.OnJoin(10, Hello(0), At(0s));
  leader_.OnJoin(11, Hello(1), At(0s));
  MemberHello h = Hello(2);
  h.last_epoch = 5000;  // an earlier leader's clock was ahead
  const GroupActions out = leader_.OnJoin(12, h, At(0s));
  ASSERT_NE(Get<PlanEpoch>(out), nullptr);
  EXPECT_EQ(Get<PlanEpoch>(out)->plan.epoch, 5001u);
}

TEST_F(GroupLeaderTest, AnEpochThatDoesNotStartIsGivenUpAndTriedAgainLaterEachTime) {
  FormGroup();
  leader_.OnFailed(10, leader_.epoch(), "x", At(0s));
  Duration last{};
  for (int attempt = 0; attempt < 4; ++attempt) {
    const uint64_t epoch = leader_.epoch();
    const GroupActions out = leader_.OnFailed(11, epoch, "no memory", At(0s));
    ASSERT_NE(Get<EndEpoch>(out), nullptr);
    EXPECT_EQ(Get<PlanEpoch>(out), nullptr) << "not at once";
    ASSERT_TRUE(leader_.next_tick().has_value());
    const Duration wait = *leader_.next_tick() - At(0s);
    EXPECT_GT(wait, last);
    last = wait;
    EXPECT_NE(Get<PlanEpoch>(leader_.OnTick(*leader_.next_tick())), nullptr);
    EXPECT_EQ(leader_.epoch(), epoch + 1);
  }
}

TEST_F(GroupLeaderTest, AGroupWaitsForARefusedRankAndSaysWhyItWasRefused) {
  leader_.OnJoin(10, Hello(0), At(0s));
  leader_.OnJoin(12, Hello(2), At(0s));
  MemberHello other = Hello(1);
  other.dtype = "f32";
  GroupActions out = leader_.OnJoin(11, other, At(0s));
  ASSERT_NE(Get<TellGroup>(out), nullptr);
  EXPECT_THAT(Get<TellGroup>(out)->waiting_for,
              HasSubstr("ranks 1; rank 1 was refused: rank 1 at"));
  EXPECT_THAT(leader_.WaitingFor(), HasSubstr("has dtype f32, its leader bf16"));
  EXPECT_EQ(Get<TellGroup>(leader_.OnJoin(13, other, At(1s))), nullptr) << "that is no news";
  out = leader_.OnJoin(14, Hello(1), At(2s));
  EXPECT_NE(Get<PlanEpoch>(out), nullptr);
  leader_.OnLeft(14, At(3s));
  EXPECT_EQ(leader_.WaitingFor(), "ranks 1") << "what it was refused for once is over";
}

TEST_F(GroupLeaderTest, ARankThatNeverGetsReadyIsNamed) {
  leader_.OnJoin(10, Hello(0), At(0s));
  leader_.OnJoin(11, Hello(1), At(0s));
  leader_.OnJoin(12, Hello(2), At(0s));
  leader_.OnReady(10, 1000, At(0s));
  leader_.OnReady(12, 1000, At(0s));
  GroupActions out;
  while (*leader_.next_tick() < At(30s)) {
    const MonoTime now = *leader_.next_tick();
    for (const MemberId m : {10, 11, 12}) leader_.OnHeard(m, now);
    out = leader_.OnTick(now);
    ASSERT_EQ(Get<EndEpoch>(out), nullptr);
  }
  out = leader_.OnTick(At(30s));
  ASSERT_NE(Get<EndEpoch>(out), nullptr);
  EXPECT_THAT(Get<EndEpoch>(out)->reason, HasSubstr("ranks 1 to set up epoch 1000"));
}

TEST_F(GroupLeaderTest, ASilentRankIsGivenUpAndNamed) {
  const uint64_t epoch = FormGroup();
  MonoTime now{};
  for (int beat = 0; leader_.num_members() == 3; ++beat) {
    ASSERT_LT(beat, 20);
    now = *leader_.next_tick();
    leader_.OnHeard(10, now);
    leader_.OnHeard(12, now);  // rank 1 is stopped
    const GroupActions out = leader_.OnTick(now);
    EXPECT_NE(Get<BeatLeader>(out), nullptr);
    if (leader_.num_members() == 3) continue;
    ASSERT_NE(Get<RefuseMember>(out), nullptr);
    EXPECT_EQ(Get<RefuseMember>(out)->member, 11u);
    ASSERT_NE(Get<EndEpoch>(out), nullptr);
    EXPECT_EQ(Get<EndEpoch>(out)->epoch, epoch);
    EXPECT_THAT(Get<EndEpoch>(out)->reason, HasSubstr("rank 1 at 127.0.0.1:7101 was silent for"));
  }
  EXPECT_GE(now, At(5s));
  EXPECT_LE(now, At(6s));
  EXPECT_NE(Get<PlanEpoch>(leader_.OnJoin(20, Hello(1), now)), nullptr) << "it may come back";
}

TEST_F(GroupLeaderTest, ALeaderThatWasStoppedItselfBlamesNobody) {
  FormGroup();
  GroupActions out = leader_.OnTick(At(60s));
  EXPECT_EQ(Get<EndEpoch>(out), nullptr);
  EXPECT_TRUE(leader_.running());
  while (leader_.next_tick().value_or(At(67s)) < At(67s)) {
    out = leader_.OnTick(*leader_.next_tick());
  }
  EXPECT_EQ(leader_.num_members(), 0u) << "but those who stay silent are";
}

TEST_F(GroupLeaderTest, AGroupDrainsAsOne) {
  FormGroup();
  GroupActions out = leader_.OnDrain(11, DrainStage::kRunning, At(0s));
  ASSERT_NE(Get<TellGroup>(out), nullptr);
  EXPECT_EQ(Get<TellGroup>(out)->drain, DrainStage::kRunning);
  leader_.OnDrain(11, DrainStage::kDone, At(0s));
  leader_.OnDrain(10, DrainStage::kIdle, At(0s));
  out = leader_.OnDrain(12, DrainStage::kIdle, At(0s));
  ASSERT_NE(Get<TellGroup>(out), nullptr);
  EXPECT_EQ(Get<TellGroup>(out)->drain, DrainStage::kDone);
  out = leader_.OnLeft(11, At(1s));
  EXPECT_EQ(Get<TellGroup>(out)->drain, DrainStage::kNone) << "the one that drained is gone";
}

}  // namespace
}  // namespace choir
