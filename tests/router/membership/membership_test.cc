#include "router/membership/membership.h"

#include <gtest/gtest.h>

#include "common/base/version.h"

namespace choir {
namespace {

WorkerIdentity Identity(const std::string& id) {
  WorkerIdentity identity;
  identity.protocol_version = kProtocolVersion;
  identity.worker_id = id;
  identity.model_id = "m";
  identity.numerics_id = "n";
  identity.vocab_size = 100;
  identity.context_length = 64;
  return identity;
}

WorkerStateReport ReadyIn(uint64_t epoch) {
  WorkerStateReport state;
  state.ready = true;
  state.epoch = epoch;
  return state;
}

TEST(Membership, TheSameAddressKeepsItsIndex) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  EXPECT_NE(m.Add("b:1"), a);
  EXPECT_EQ(m.Add("a:1"), a);
}

TEST(Membership, AWorkerBecomesReadyAfterHelloAndState) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  m.OnConnecting(a, 1);
  ASSERT_TRUE(m.OnHello(a, Identity("g0r0")).ok());
  EXPECT_EQ(m.ranks().size(), 0u);
  EXPECT_FALSE(m.OnState(a, ReadyIn(1)));
  EXPECT_EQ(m.ranks().size(), 1u);
  EXPECT_EQ(m.context_length(), 64u);
}

TEST(Membership, ASnapshotDoesNotChange) {
  Membership m(100);
  const auto before = m.snapshot();
  m.Add("a:1");
  EXPECT_TRUE(before.workers.empty());
  EXPECT_EQ(m.snapshot().workers.size(), 1u);
}

TEST(Membership, ANewEpochIsReportedOnce) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  ASSERT_TRUE(m.OnHello(a, Identity("g0r0")).ok());
  m.OnState(a, ReadyIn(1));
  EXPECT_TRUE(m.OnEpoch(a, 2));  // a step may say it first
  EXPECT_FALSE(m.OnState(a, ReadyIn(2)));
  EXPECT_FALSE(m.OnEpoch(a, 1));
  EXPECT_TRUE(m.OnState(a, ReadyIn(1)));  // the leader was restarted and counts anew
}

TEST(Membership, TheEndOfAnEpochOnOneRankIsItsEndOnAllOfItsGroup) {
  Membership m(100);
  std::vector<WorkerIndex> all;
  for (const char* id : {"g0r0", "g0r1", "g1r0"}) {
    all.push_back(m.Add(fmt::format("{}:1", id)));
    WorkerIdentity identity = Identity(id);
    identity.group = id[1] == '0' ? 0 : 1;
    identity.group_size = 2;
    ASSERT_TRUE(m.OnHello(all.back(), identity).ok());
    m.OnState(all.back(), ReadyIn(5));
  }
  ASSERT_EQ(m.ranks().size(), 3u);
  WorkerStateReport over;
  over.reason = "rank 1 was silent";
  EXPECT_TRUE(m.OnState(all[0], over));
  EXPECT_EQ(m.OnGroupEpochEnded(all[0], 5), std::vector<WorkerIndex>{all[1]});
  EXPECT_EQ(m.Find(all[1])->phase, WorkerPhase::kNotReady);
  EXPECT_EQ(m.Find(all[1])->reason, "epoch 5 of its group is over, says g0r0");
  EXPECT_EQ(m.Find(all[2])->phase, WorkerPhase::kReady) << "another group";
  m.OnState(all[1], ReadyIn(6));
  EXPECT_TRUE(m.OnGroupEpochEnded(all[0], 5).empty()) << "it is in a later epoch already";
  EXPECT_EQ(m.Find(all[1])->phase, WorkerPhase::kReady);
}

TEST(Membership, RefusesAnotherProtocolByName) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  WorkerIdentity identity = Identity("g0r7");
  identity.protocol_version = kProtocolVersion + 1;
  const Status status = m.OnHello(a, identity);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(MessageOf(status).find("g0r7"), std::string::npos);
  EXPECT_EQ(m.Find(a)->phase, WorkerPhase::kRefused);
  m.OnState(a, ReadyIn(1));
  EXPECT_EQ(m.ranks().size(), 0u);
}

TEST(Membership, RefusesAnotherModelNumericsOrVocabulary) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  const WorkerIndex b = m.Add("b:1");
  ASSERT_TRUE(m.OnHello(a, Identity("g0r0")).ok());
  WorkerIdentity other = Identity("g0r1");
  other.model_id = "another";
  EXPECT_NE(MessageOf(m.OnHello(b, other)).find("another"), std::string::npos);
  other = Identity("g0r1");
  other.numerics_id = "q";
  EXPECT_FALSE(m.OnHello(b, other).ok());
  other = Identity("g0r1");
  other.vocab_size = 99;
  EXPECT_FALSE(m.OnHello(b, other).ok());
  EXPECT_FALSE(m.OnHello(b, Identity("g0r0")).ok()) << "two workers of one name";
  EXPECT_TRUE(m.OnHello(b, Identity("g0r1")).ok());
}

TEST(Membership, ForgetsTheModelWhenNoWorkerHoldsIt) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  ASSERT_TRUE(m.OnHello(a, Identity("g0r0")).ok());
  m.OnStreamLost(a, "gone");
  WorkerIdentity newer = Identity("g0r0");
  newer.numerics_id = "n2";
  EXPECT_TRUE(m.OnHello(a, newer).ok());
}

TEST(Membership, ALostStreamTakesTheAssignedLoadWithIt) {
  Membership m(100);
  const WorkerIndex a = m.Add("a:1");
  ASSERT_TRUE(m.OnHello(a, Identity("g0r0")).ok());
  m.Assign(a, 10);
  m.Assign(a, 5);
  m.FirstToken(a, 10);
  EXPECT_EQ(m.Find(a)->assigned_tokens, 5u);
  m.OnStreamLost(a, "gone");
  EXPECT_EQ(m.Find(a)->assigned_sequences, 0u);
  EXPECT_EQ(m.Find(a)->phase, WorkerPhase::kLost);
  m.Release(a, 5);  // late: counts nothing
  EXPECT_EQ(m.Find(a)->assigned_sequences, 0u);
}

}  // namespace
}  // namespace choir
