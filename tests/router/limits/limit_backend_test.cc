// The contract of LimitBackend, on every implementation.
#include "router/limits/limit_backend.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "tests/router/limits/limit_world.h"

namespace choir {
namespace {

constexpr double kSecond = 1e6;

class LimitBackendTest : public testing::TestWithParam<LimitWorldKind> {
 protected:
  void SetUp() override {
    world_ = GetParam().make();
    if (world_ == nullptr) GTEST_SKIP() << "not to be had on this machine";
  }
  std::unique_ptr<LimitWorld> world_;
};

LimitRules Rate(double per_second, uint64_t burst) {
  return {.requests_per_second = per_second, .burst = burst};
}

TEST_P(LimitBackendTest, LetsABurstThroughAndThenOneAtATime) {
  const LimitScopes scopes = ScopesOf({{"tenant:a", Rate(5, 5)}});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(AskAdmit(*world_, scopes).admitted) << i;
  for (int round = 0; round < 20; ++round) {
    EXPECT_FALSE(AskAdmit(*world_, scopes).admitted);
    world_->Advance(0.2 * kSecond - 1);
    EXPECT_FALSE(AskAdmit(*world_, scopes).admitted) << "a microsecond too early";
    world_->Advance(1);
    EXPECT_TRUE(AskAdmit(*world_, scopes).admitted) << round;
  }
  world_->Advance(60 * kSecond);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(AskAdmit(*world_, scopes).admitted) << i;
  EXPECT_FALSE(AskAdmit(*world_, scopes).admitted);
}

TEST_P(LimitBackendTest, ARefusalTakesNothingFromAnyScope) {
  const LimitScopes both = ScopesOf({{"tenant:a", Rate(1, 10)}, {"global", {.concurrency = 1}}});
  const LimitScopes alone = ScopesOf({{"tenant:a", Rate(1, 10)}});
  const AskedRequest running = AskAdmit(*world_, both);
  EXPECT_TRUE(running.admitted);
  for (int i = 0; i < 50; ++i) {
    const AskedRequest refused = AskAdmit(*world_, both);
    ASSERT_FALSE(refused.admitted);
    EXPECT_EQ(refused.answer.refusal->scope, 1u);
    EXPECT_EQ(refused.answer.refusal->kind, LimitKind::kConcurrency);
  }
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(AskAdmit(*world_, alone).admitted) << i;
  EXPECT_FALSE(AskAdmit(*world_, alone).admitted);
}

TEST_P(LimitBackendTest, RunsAsManyAtOnceAsAllowed) {
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.concurrency = 2}}});
  std::deque<AskedRequest> running;
  for (int round = 0; round < 5; ++round) {
    while (running.size() < 2) {
      running.push_back(AskAdmit(*world_, scopes));
      EXPECT_TRUE(running.back().admitted);
    }
    EXPECT_FALSE(AskAdmit(*world_, scopes).admitted);
    world_->Advance(3600 * kSecond);
    EXPECT_FALSE(AskAdmit(*world_, scopes).admitted) << "time frees no place";
    AskClose(*world_, running.front(), 0);
    running.pop_front();
  }
}

TEST_P(LimitBackendTest, ReservesTheMostAndSettlesWhatWasUsed) {
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.tokens_per_minute = 1000}}});
  AskedRequest first = AskAdmit(*world_, scopes);
  EXPECT_FALSE(AskReserve(*world_, &first, 900).refusal);
  AskedRequest second = AskAdmit(*world_, scopes);
  const LimitAnswer refused = AskReserve(*world_, &second, 101);
  ASSERT_TRUE(refused.refusal);
  EXPECT_EQ(refused.refusal->kind, LimitKind::kMinuteTokens);
  EXPECT_FALSE(AskReserve(*world_, &second, 100).refusal);
  AskClose(*world_, second, 0);   // used nothing
  AskClose(*world_, first, 250);  // and this one a quarter
  AskedRequest third = AskAdmit(*world_, scopes);
  EXPECT_TRUE(AskReserve(*world_, &third, 751).refusal);
  EXPECT_FALSE(AskReserve(*world_, &third, 750).refusal);
  AskClose(*world_, third, 750);
  world_->Advance(6 * kSecond);  // a tenth of a minute: a hundred tokens
  AskedRequest fourth = AskAdmit(*world_, scopes);
  EXPECT_TRUE(AskReserve(*world_, &fourth, 101).refusal);
  EXPECT_FALSE(AskReserve(*world_, &fourth, 100).refusal);
}

TEST_P(LimitBackendTest, ADaysTokensComeBackOverTheDay) {
  const LimitScopes scopes =
      ScopesOf({{"tenant:a", {.tokens_per_minute = 1000, .tokens_per_day = 2000}}});
  for (int minute = 0; minute < 2; ++minute) {
    AskedRequest request = AskAdmit(*world_, scopes);
    ASSERT_FALSE(AskReserve(*world_, &request, 1000).refusal) << minute;
    AskClose(*world_, request, 1000);
    world_->Advance(60 * kSecond);
  }
  AskedRequest request = AskAdmit(*world_, scopes);
  const LimitAnswer refused = AskReserve(*world_, &request, 1000);
  ASSERT_TRUE(refused.refusal);
  EXPECT_EQ(refused.refusal->kind, LimitKind::kDayTokens);
  // Half of the tokens take half of the day, of which two minutes are over.
  world_->Advance((43'200 - 121) * kSecond);
  EXPECT_TRUE(AskReserve(*world_, &request, 1000).refusal);
  world_->Advance(kSecond);
  EXPECT_FALSE(AskReserve(*world_, &request, 1000).refusal);
}

TEST_P(LimitBackendTest, WhoAsksOneThingAfterTheOtherGetsTheWholeRate) {
  // Each takes a minute for a minute's tokens; what is refilled meanwhile is not lost.
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.tokens_per_minute = 1000}}});
  for (int i = 0; i < 20; ++i) {
    AskedRequest request = AskAdmit(*world_, scopes);
    ASSERT_FALSE(AskReserve(*world_, &request, 1000).refusal) << i;
    world_->Advance(60 * kSecond);
    AskClose(*world_, request, 1000);
  }
}

TEST_P(LimitBackendTest, RefillThatNobodyUsedIsNotSavedUp) {
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.tokens_per_minute = 1000}}});
  world_->Advance(600 * kSecond);
  AskedRequest request = AskAdmit(*world_, scopes);
  ASSERT_FALSE(AskReserve(*world_, &request, 1000).refusal);
  AskClose(*world_, request, 1000);
  AskedRequest more = AskAdmit(*world_, scopes);
  EXPECT_TRUE(AskReserve(*world_, &more, 1).refusal);
}

TEST_P(LimitBackendTest, ABudgetIsUsedUpForGood) {
  const LimitScopes scopes = ScopesOf({{"tenant:a", {.budget = 1e-3}}});  // 1000 millionths
  AskedRequest request = AskAdmit(*world_, scopes);
  LimitCall reserve{.op = LimitOp::kReserve, .scopes = scopes, .tokens = 10, .money = 1001};
  EXPECT_EQ(world_->Ask(reserve).refusal->kind, LimitKind::kBudget);
  reserve.money = 1000;
  EXPECT_FALSE(world_->Ask(reserve).refusal);
  EXPECT_EQ(AskAdmit(*world_, scopes).answer.refusal->kind, LimitKind::kBudget);
  request.closing.money = 1000;
  request.closing.used_money = 400;
  world_->Ask(request.closing);
  world_->Advance(1e6 * kSecond);
  EXPECT_TRUE(AskAdmit(*world_, scopes).admitted);
  reserve.money = 601;
  EXPECT_EQ(world_->Ask(reserve).refusal->kind, LimitKind::kBudget);
}

TEST_P(LimitBackendTest, AWithdrawnRequestDoesNotCount) {
  const LimitScopes scopes = ScopesOf({{"tenant:a", Rate(1, 2)}});
  for (int i = 0; i < 20; ++i) {
    AskedRequest request = AskAdmit(*world_, scopes);
    ASSERT_TRUE(request.admitted) << i;
    request.closing.withdrawn = true;
    AskClose(*world_, request, 0);
  }
  EXPECT_TRUE(AskAdmit(*world_, scopes).admitted);
  EXPECT_TRUE(AskAdmit(*world_, scopes).admitted);
  EXPECT_FALSE(AskAdmit(*world_, scopes).admitted);
}

TEST_P(LimitBackendTest, AResumedRequestIsCountedButNeverRefused) {
  LimitRules rules = Rate(1, 1);
  rules.concurrency = 1;
  rules.tokens_per_minute = 100;
  const LimitScopes scopes = ScopesOf({{"tenant:a", rules}});
  AskedRequest first = AskAdmit(*world_, scopes);
  EXPECT_FALSE(AskReserve(*world_, &first, 100).refusal);
  LimitCall call{.op = LimitOp::kAdmit, .scopes = scopes, .resumed = true};
  LimitAnswer answer = world_->Ask(call);
  EXPECT_FALSE(answer.refusal);
  EXPECT_EQ(answer.readings[0].running, 2);
  EXPECT_NEAR(answer.readings[0].buckets[kRequestBucket].level, 1, 1e-3);
  call.op = LimitOp::kReserve;
  call.tokens = 80;
  answer = world_->Ask(call);
  EXPECT_FALSE(answer.refusal);
  EXPECT_EQ(answer.readings[0].buckets[kMinuteBucket].reserved, 180);
}

// What was admitted: when, and in the end what it used.
struct Event {
  double at_us;
  double amount;
};

// Over every window the amounts that began in it are within capacity + leak * time.
void ExpectWithin(const std::deque<Event>& events, const BucketRule& rule) {
  for (size_t from = 0; from < events.size(); ++from) {
    double sum = 0;
    for (size_t to = from; to < events.size(); ++to) {
      sum += events[to].amount;
      const double t = events[to].at_us - events[from].at_us;
      ASSERT_LE(sum, rule.capacity + t * rule.leak / rule.period_us + 1e-3);
    }
  }
}

bool WouldExceed(const std::deque<Event>& events, const BucketRule& rule, Event next) {
  double sum = next.amount;
  if (sum > rule.capacity + kRounding) return true;
  for (size_t from = events.size(); from-- > 0;) {
    sum += events[from].amount;
    const double t = next.at_us - events[from].at_us;
    if (sum > rule.capacity + t * rule.leak / rule.period_us + kRounding) return true;
  }
  return false;
}

// Random requests of two tenants below a global limit: never more than allowed, and, for requests,
// not less either.
TEST_P(LimitBackendTest, HoldsEveryLimitInEveryWindow) {
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto draw = [&](uint32_t n) { return static_cast<double>(random() % n); };
    LimitRules tenant = Rate(4, 6);
    tenant.concurrency = 3;
    tenant.tokens_per_minute = 3000;
    LimitRules all = Rate(6, 8);
    all.tokens_per_day = 200'000;
    const std::string suffix = std::to_string(seed);
    struct Running {
      AskedRequest request;
      size_t tenant;
      size_t event;
      double reserved;
      size_t router;
    };
    std::deque<Running> running;
    std::deque<Event> requests[2], every_request, tokens[2], every_token;
    const LimitScopes scopes[2] = {
        ScopesOf({{"tenant:a" + suffix, tenant}, {"global" + suffix, all}}),
        ScopesOf({{"tenant:b" + suffix, tenant}, {"global" + suffix, all}})};
    std::vector<std::pair<size_t, size_t>> place;  // of an event of tokens in both lists
    size_t count[2] = {0, 0};
    for (int step = 0; step < 400; ++step) {
      world_->Advance(draw(150'000));
      const size_t who = random() % 2;
      const size_t router = random() % world_->num_routers();
      if (!running.empty() && draw(3) == 0) {
        const size_t pick = random() % running.size();
        Running done = running[pick];
        running.erase(running.begin() + static_cast<ptrdiff_t>(pick));
        const double used = draw(static_cast<uint32_t>(done.reserved) + 1);
        AskClose(*world_, done.request, used, done.router);
        tokens[done.tenant][place[done.event].first].amount = used;
        every_token[place[done.event].second].amount = used;
        --count[done.tenant];
        continue;
      }
      const double now = world_->NowUs();
      AskedRequest request = AskAdmit(*world_, scopes[who], router);
      const bool may = count[who] < 3 &&
                       !WouldExceed(requests[who], *(*scopes[who])[0].buckets[0], {now, 1}) &&
                       !WouldExceed(every_request, *(*scopes[who])[1].buckets[0], {now, 1});
      ASSERT_EQ(request.admitted, may) << "step " << step;
      if (!request.admitted) continue;
      requests[who].push_back({now, 1});
      every_request.push_back({now, 1});
      const double need = 1 + draw(900);
      AskReserve(*world_, &request, need, router);
      if (!request.admitted) {
        AskClose(*world_, request, 0, router);
        continue;
      }
      ++count[who];
      place.emplace_back(tokens[who].size(), every_token.size());
      tokens[who].push_back({now, need});
      every_token.push_back({now, need});
      running.push_back({request, who, place.size() - 1, need, router});
    }
    for (size_t t = 0; t < 2; ++t) {
      ExpectWithin(requests[t], *(*scopes[t])[0].buckets[kRequestBucket]);
      ExpectWithin(tokens[t], *(*scopes[t])[0].buckets[kMinuteBucket]);
    }
    ExpectWithin(every_request, *(*scopes[0])[1].buckets[kRequestBucket]);
    ExpectWithin(every_token, *(*scopes[0])[1].buckets[kDayBucket]);
    for (const Running& left : running) AskClose(*world_, left.request, 0, left.router);
    const LimitAnswer end =
        world_->Ask({.op = LimitOp::kAdmit, .scopes = scopes[0], .resumed = true});
    EXPECT_EQ(end.readings[0].running, 1) << "only the one that asks";
    EXPECT_EQ(end.readings[0].buckets[kMinuteBucket].reserved, 0);
    EXPECT_EQ(end.readings[1].buckets[kDayBucket].reserved, 0);
  }
}

TEST_P(LimitBackendTest, ForgetsWhoIsAsGoodAsNew) {
  for (int i = 0; i < 1000; ++i) {
    LimitRules rules = Rate(1, 5);
    rules.tokens_per_minute = 100;
    AskedRequest request = AskAdmit(*world_, ScopesOf({{"tenant:" + std::to_string(i), rules}}));
    AskReserve(*world_, &request, 50);
    AskClose(*world_, request, 50);
  }
  EXPECT_GT(world_->backend(0).status().scopes, 900u);
  world_->Advance(61 * kSecond);
  const LimitScopes one = ScopesOf({{"tenant:one", {.concurrency = 1}}});
  for (int i = 0; i < 1000; ++i) AskClose(*world_, AskAdmit(*world_, one), 0);
  EXPECT_LE(world_->backend(0).status().scopes, 1u);
}

INSTANTIATE_TEST_SUITE_P(Every, LimitBackendTest, testing::ValuesIn(LimitWorlds()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace choir
