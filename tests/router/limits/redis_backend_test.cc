// Redis that dies, hangs and comes back; routers that die: with real servers.
#include "router/limits/redis/redis_backend.h"

#include <gtest/gtest.h>

#include <array>

#include "tests/router/limits/limit_world.h"
#include "tests/router/limits/redis_router.h"
#include "tests/support/redis_server.h"
#include "tests/support/sim_clock.h"

namespace choir {
namespace {

class RedisBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = RedisServer::Start();
    if (server_ == nullptr) GTEST_SKIP() << "there is no redis-server here";
    options_.url = server_->url();
    options_.now_us = [this] { return now_us_; };
  }
  void StartRouters(size_t n) {
    for (size_t i = 0; i < n; ++i) {
      options_.name = "r" + std::to_string(i);
      routers_.push_back(std::make_unique<RedisRouter>(options_, &clock_));
      alive_.push_back(routers_.back().get());
    }
    ASSERT_TRUE(WaitDegraded(false));
    Advance(options_.lease / 2);  // each says that it lives, and hears of the others
    ASSERT_TRUE(WaitReplicas(n));
  }
  bool WaitReplicas(size_t n) {
    return RunUntil(alive_, [&] {
      for (RedisRouter* const router : alive_) {
        if (router->backend().status().replicas != static_cast<double>(n)) return false;
      }
      return true;
    });
  }
  void Advance(Duration d) {
    clock_.Advance(d);
    now_us_ += Seconds(d) * 1e6;
  }
  bool WaitDegraded(bool degraded) {
    return RunUntil(alive_, [&] {
      for (RedisRouter* const router : alive_) {
        if (router->backend().status().degraded != degraded) return false;
      }
      return true;
    });
  }
  LimitAnswer Ask(size_t router, LimitCall call) {
    std::optional<LimitAnswer> got;
    routers_[router]->backend().Call(std::move(call), [&](const LimitAnswer& a) { got = a; });
    EXPECT_TRUE(RunUntil(alive_, [&] { return got.has_value(); }));
    return got.value_or(LimitAnswer{});
  }
  bool Admit(size_t router, const LimitScopes& scopes) {
    return !Ask(router, {.op = LimitOp::kAdmit, .scopes = scopes}).refusal;
  }
  bool Reserve(size_t router, const LimitScopes& scopes, double tokens) {
    return !Ask(router, {.op = LimitOp::kReserve, .scopes = scopes, .tokens = tokens}).refusal;
  }
  void Close(size_t router, const LimitScopes& scopes, double tokens, double used) {
    Ask(router, {.op = LimitOp::kClose, .scopes = scopes, .tokens = tokens, .used_tokens = used});
  }

  SimClock clock_;
  double now_us_ = 1e15;
  std::unique_ptr<RedisServer> server_;
  RedisRouterOptions options_;
  std::vector<std::unique_ptr<RedisRouter>> routers_;
  std::vector<RedisRouter*> alive_;  // whose owner threads run
};

TEST_F(RedisBackendTest, WhatADeadRouterHeldIsFreeAndComesBackWithIt) {
  options_.lease = std::chrono::seconds(10);
  StartRouters(2);
  LimitRules rules{.concurrency = 2, .tokens_per_day = 1000};
  const LimitScopes scopes = ScopesOf({{"tenant:a", rules}});
  EXPECT_TRUE(Admit(0, scopes));
  EXPECT_TRUE(Reserve(0, scopes, 800));
  EXPECT_TRUE(Admit(0, scopes));
  EXPECT_FALSE(Admit(1, scopes));
  EXPECT_FALSE(Reserve(1, scopes, 300));
  alive_ = {routers_[1].get()};  // the first hangs
  Advance(std::chrono::seconds(11));
  ASSERT_TRUE(WaitReplicas(1));
  EXPECT_TRUE(Admit(1, scopes));
  EXPECT_TRUE(Reserve(1, scopes, 1000));
  Close(1, scopes, 1000, 0);
  EXPECT_TRUE(Admit(1, scopes));
  Close(1, scopes, 0, 0);
  alive_.push_back(routers_[0].get());  // it was only slow: what it holds counts again
  Advance(options_.lease / 2);
  ASSERT_TRUE(WaitReplicas(2));
  ASSERT_TRUE(WaitDegraded(false));
  EXPECT_FALSE(Admit(1, scopes));
  EXPECT_FALSE(Reserve(1, scopes, 300));
  Close(0, scopes, 800, 100);
  EXPECT_TRUE(Admit(1, scopes));
  EXPECT_TRUE(Reserve(1, scopes, 900));
}

TEST_F(RedisBackendTest, WithoutRedisEachRouterHasItsShare) {
  StartRouters(2);
  LimitRules rules{.requests_per_second = 10, .burst = 10, .concurrency = 4};
  const LimitScopes scopes = ScopesOf({{"tenant:a", rules}});
  server_->Kill();
  ASSERT_TRUE(WaitDegraded(true));
  for (size_t router = 0; router < 2; ++router) {
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(Admit(router, scopes)) << router;
    const LimitAnswer refused = Ask(router, {.op = LimitOp::kAdmit, .scopes = scopes});
    ASSERT_TRUE(refused.refusal);
    EXPECT_EQ(refused.refusal->kind, LimitKind::kConcurrency);
    for (int i = 0; i < 2; ++i) Close(router, scopes, 0, 0);
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(Admit(router, scopes)) << router;
      Close(router, scopes, 0, 0);
    }
    EXPECT_FALSE(Admit(router, scopes)) << "five of ten";
  }
}

TEST_F(RedisBackendTest, ARedisThatLostItsDataIsToldWhatWasUsedAndWhatRuns) {
  StartRouters(2);
  LimitRules rules{.concurrency = 4, .tokens_per_day = 1000};
  const LimitScopes scopes = ScopesOf({{"tenant:a", rules}});
  for (size_t router = 0; router < 2; ++router) {
    EXPECT_TRUE(Admit(router, scopes));
    EXPECT_TRUE(Reserve(router, scopes, 200));
  }
  EXPECT_TRUE(Admit(0, scopes));
  Close(0, scopes, 0, 100);
  EXPECT_TRUE(Admit(1, scopes));  // so that both know of the hundred
  Close(1, scopes, 0, 0);
  server_->Kill();
  ASSERT_TRUE(WaitDegraded(true));
  EXPECT_TRUE(Admit(1, scopes));
  EXPECT_FALSE(Reserve(1, scopes, 251)) << "its half, less half of a hundred, less two hundred";
  EXPECT_TRUE(Reserve(1, scopes, 250));
  Close(1, scopes, 250, 150);
  ASSERT_TRUE(server_->Restart());
  ASSERT_TRUE(WaitDegraded(false));
  // 100 and 150 are used, 400 reserved, two requests run.
  const LimitAnswer now = Ask(0, {.op = LimitOp::kAdmit, .scopes = scopes});
  EXPECT_EQ(now.readings[0].running, 3);
  EXPECT_NEAR(now.readings[0].buckets[kDayBucket].level, 250, 1e-6);
  EXPECT_EQ(now.readings[0].buckets[kDayBucket].reserved, 400);
  EXPECT_FALSE(Reserve(0, scopes, 351));
  EXPECT_TRUE(Reserve(0, scopes, 350));
}

TEST_F(RedisBackendTest, TheShareHoldsUntilTheOthersAreBackOrALeaseIsOver) {
  StartRouters(2);
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.concurrency = 4}}});
  server_->Kill();
  ASSERT_TRUE(WaitDegraded(true));
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Admit(1, scopes));
  ASSERT_TRUE(server_->Restart());
  alive_ = {routers_[0].get()};
  const auto waits = [&] {
    return routers_[0]->backend().status().reason.find("1 of 2") != std::string::npos;
  };
  ASSERT_TRUE(RunUntil(alive_, waits));
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Admit(0, scopes));
  EXPECT_FALSE(Admit(0, scopes)) << "the other one's places are not known there yet";
  Advance(options_.lease);  // it is given up
  ASSERT_TRUE(WaitDegraded(false));
  EXPECT_TRUE(Admit(0, scopes));
  alive_.push_back(routers_[1].get());
  ASSERT_TRUE(WaitDegraded(false));
  EXPECT_FALSE(Admit(0, scopes)) << "all four places are taken, and one more";
}

TEST_F(RedisBackendTest, ARedisThatOnlyHungIsToldOnlyWhatIsNew) {
  options_.timeout = std::chrono::milliseconds(300);
  StartRouters(1);
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.tokens_per_day = 1000}}});
  EXPECT_TRUE(Admit(0, scopes));
  EXPECT_TRUE(Reserve(0, scopes, 300));
  Close(0, scopes, 300, 300);
  server_->Pause();
  EXPECT_TRUE(Admit(0, scopes)) << "answered by the share";
  EXPECT_TRUE(routers_[0]->backend().status().degraded);
  EXPECT_FALSE(Reserve(0, scopes, 701));
  EXPECT_TRUE(Reserve(0, scopes, 700));
  Close(0, scopes, 700, 50);
  server_->Continue();
  ASSERT_TRUE(WaitDegraded(false));
  const LimitAnswer now = Ask(0, {.op = LimitOp::kAdmit, .scopes = scopes});
  EXPECT_NEAR(now.readings[0].buckets[kDayBucket].level, 350, 1e-6);
  EXPECT_EQ(now.readings[0].buckets[kDayBucket].reserved, 0);
  EXPECT_EQ(now.readings[0].running, 1);
}

TEST_F(RedisBackendTest, ALeaseFromBeforeTheLossIsSettledAfterIt) {
  StartRouters(1);
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.concurrency = 1, .tokens_per_day = 1000}}});
  EXPECT_TRUE(Admit(0, scopes));
  EXPECT_TRUE(Reserve(0, scopes, 1000));
  server_->Kill();
  ASSERT_TRUE(WaitDegraded(true));
  EXPECT_FALSE(Admit(0, scopes));
  Close(0, scopes, 1000, 10);
  EXPECT_TRUE(Admit(0, scopes));
  ASSERT_TRUE(server_->Restart());
  ASSERT_TRUE(WaitDegraded(false));
  EXPECT_FALSE(Admit(0, scopes));
  EXPECT_FALSE(Reserve(0, scopes, 991));
  EXPECT_TRUE(Reserve(0, scopes, 990));
  Close(0, scopes, 990, 0);
  EXPECT_TRUE(Admit(0, scopes));
}

TEST_F(RedisBackendTest, ARestartBetweenTwoCallsLosesNothing) {
  StartRouters(1);
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.concurrency = 5}}});
  EXPECT_TRUE(Admit(0, scopes));
  server_->Kill();
  ASSERT_TRUE(server_->Restart());
  EXPECT_TRUE(Admit(0, scopes));
  ASSERT_TRUE(WaitDegraded(false));
  EXPECT_EQ(Ask(0, {.op = LimitOp::kAdmit, .scopes = scopes}).readings[0].running, 3);
}

TEST_F(RedisBackendTest, AWrongPasswordIsSaidWithoutTheSecret) {
  options_.url.insert(options_.url.find('@'), "wrong");
  routers_.push_back(std::make_unique<RedisRouter>(options_, &clock_));
  alive_.push_back(routers_.back().get());
  ASSERT_TRUE(RunUntil(alive_, [&] {
    return routers_[0]->backend().status().reason.find("error") != std::string::npos;
  }));
  const LimitBackendStatus status = routers_[0]->backend().status();
  EXPECT_TRUE(status.degraded);
  EXPECT_EQ(status.reason.find("wrong"), std::string::npos) << status.reason;
  EXPECT_TRUE(Admit(0, ScopesOf({{"tenant:a", {.concurrency = 1}}})));
}

TEST_F(RedisBackendTest, TheClockIsRedisOwn) {
  options_.now_us = nullptr;
  StartRouters(2);
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.requests_per_second = 0.001, .burst = 2}}});
  EXPECT_TRUE(Admit(0, scopes));
  clock_.Advance(std::chrono::hours(1000));  // this router's clock jumps
  EXPECT_TRUE(Admit(0, scopes));
  EXPECT_FALSE(Admit(0, scopes));
  EXPECT_FALSE(Admit(1, scopes));
}

TEST_F(RedisBackendTest, ARouterThatLeavesHoldsNothing) {
  StartRouters(2);
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.concurrency = 1}}});
  EXPECT_TRUE(Admit(0, scopes));
  EXPECT_FALSE(Admit(1, scopes));
  alive_ = {routers_[1].get()};
  routers_[0].reset();
  EXPECT_TRUE(Admit(1, scopes));
}

}  // namespace
}  // namespace choir
