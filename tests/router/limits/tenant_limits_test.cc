#include "router/limits/tenant_limits.h"

#include <gtest/gtest.h>

#include <deque>

#include "tests/support/sim_clock.h"

namespace choir {
namespace {

// Answers when it is told to.
class SlowBackend final : public LimitBackend {
 public:
  explicit SlowBackend(const Clock* clock) : inner_(MakeMemoryLimitBackend(clock)) {}
  void Call(LimitCall call, Done done) override {
    calls.push_back(call);
    waiting_.push_back([this, call, done = std::move(done)] { inner_->Call(call, done); });
    if (!slow) Answer();
  }
  ScopeReading Peek(const LimitScope& scope) override { return inner_->Peek(scope); }
  LimitBackendStatus status() const override { return inner_->status(); }
  void Answer() {
    while (!waiting_.empty()) {
      const auto next = std::move(waiting_.front());
      waiting_.pop_front();
      next();
    }
  }

  bool slow = false;
  std::vector<LimitCall> calls;

 private:
  const std::unique_ptr<LimitBackend> inner_;
  std::deque<std::function<void()>> waiting_;
};

class TenantLimitsTest : public testing::Test {
 protected:
  using Admitted = std::variant<std::unique_ptr<LimitLease>, ApiError>;

  void Make(LimitConfig config) {
    for (auto& [name, tenant] : config.tenants) {
      ASSERT_TRUE(CompleteLimitRules(&tenant.limits).ok());
    }
    auto backend = std::make_unique<SlowBackend>(&clock_);
    backend_ = backend.get();
    limits_ = MakeTenantLimits(std::move(config), std::move(backend));
  }
  void MakeAcme(LimitRules rules) {
    LimitConfig config;
    config.tenants["acme"].limits = rules;
    config.prices = {.prompt = 1, .cached = 0.5, .output = 10};
    Make(std::move(config));
  }
  Admitted Admit(const std::string& tenant = "acme") {
    Admitted got;
    limits_->Admit({.tenant = tenant, .key_id = "k1", .model = "m"},
                   [&](Admitted admitted) { got = std::move(admitted); });
    return got;
  }
  std::unique_ptr<LimitLease> Lease(const std::string& tenant = "acme") {
    Admitted got = Admit(tenant);
    auto* lease = std::get_if<std::unique_ptr<LimitLease>>(&got);
    EXPECT_NE(lease, nullptr) << std::get<ApiError>(got).message;
    return lease == nullptr ? nullptr : std::move(*lease);
  }
  ApiError Refused(const std::string& tenant = "acme") {
    Admitted got = Admit(tenant);
    const ApiError* error = std::get_if<ApiError>(&got);
    EXPECT_NE(error, nullptr);
    return error == nullptr ? ApiError{} : *error;
  }
  std::optional<ApiError> Reserve(LimitLease& lease, uint64_t prompt, uint64_t output) {
    std::optional<ApiError> got = InternalError("not answered");
    lease.Reserve({prompt, output}, [&](std::optional<ApiError> error) { got = error; });
    return got;
  }
  void ExpectAllSettled() {
    const LimitStatus status = limits_->status();
    EXPECT_EQ(status.outstanding_tokens, 0u);
    EXPECT_EQ(status.leases, 0u);
    EXPECT_EQ(status.Difference(), 0);
  }

  SimClock clock_;
  SlowBackend* backend_ = nullptr;
  std::unique_ptr<TenantLimits> limits_;
};

TEST_F(TenantLimitsTest, WhoHasNoLimitsIsNotCounted) {
  MakeAcme({.concurrency = 1});
  const auto lease = Lease("other");
  EXPECT_EQ(Reserve(*lease, 1'000'000, 1'000'000), std::nullopt);
  EXPECT_EQ(lease->rule(), "none");
  EXPECT_TRUE(lease->readings().empty());
  EXPECT_TRUE(backend_->calls.empty());
}

TEST_F(TenantLimitsTest, TenantsThatAreNotListedHaveTheDefaultEach) {
  LimitConfig config;
  config.tenants["acme"] = {};
  config.default_tenant.concurrency = 1;
  Make(config);
  const auto one = Lease("one"), two = Lease("two"), free = Lease("acme"), more = Lease("acme");
  EXPECT_EQ(Refused("one").code, "concurrency");
  EXPECT_EQ(one->rule(), "tenant:one");
}

TEST_F(TenantLimitsTest, CountsKeyTenantModelAndAllTogether) {
  LimitConfig config;
  config.tenants["acme"].limits.concurrency = 10;
  config.global.concurrency = 11;
  config.models["m"].concurrency = 12;
  Make(config);
  std::unique_ptr<LimitLease> lease;
  limits_->Admit(
      {.tenant = "acme", .key_id = "k1", .model = "m", .key_rules = {.concurrency = 1}},
      [&](Admitted got) { lease = std::move(std::get<std::unique_ptr<LimitLease>>(got)); });
  EXPECT_EQ(lease->rule(), "key:k1,tenant:acme,model:m,global");
  const ApiError* error = nullptr;
  Admitted kept;
  limits_->Admit({.tenant = "acme", .key_id = "k1", .model = "m", .key_rules = {.concurrency = 1}},
                 [&](Admitted got) { kept = std::move(got); });
  error = std::get_if<ApiError>(&kept);
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(error->limit_rule, "key:k1.concurrency");
}

TEST_F(TenantLimitsTest, SaysWhenToComeBackAndHowMuchIsLeft) {
  MakeAcme({.requests_per_second = 5, .burst = 5, .tokens_per_minute = 600});
  std::vector<std::unique_ptr<LimitLease>> leases;
  for (int i = 0; i < 5; ++i) leases.push_back(Lease());
  const std::vector<LimitReading> readings = leases.back()->readings();
  ASSERT_EQ(readings.size(), 2u);
  EXPECT_EQ(readings[0].name, "requests");
  EXPECT_EQ(readings[0].limit, 5u);
  EXPECT_EQ(readings[0].remaining, 0u);
  EXPECT_NEAR(readings[0].reset_seconds, 1, 1e-6);
  EXPECT_EQ(readings[1].name, "tokens");
  EXPECT_EQ(readings[1].remaining, 600u);
  const ApiError error = Refused();
  EXPECT_EQ(error.http, 429);
  EXPECT_EQ(error.type, "rate_limit_error");
  EXPECT_EQ(error.code, "requests");
  EXPECT_NEAR(error.retry_after_seconds, 0.2, 1e-6);
  EXPECT_EQ(error.limit_rule, "tenant:acme.requests_per_second");
  EXPECT_EQ(error.limits.size(), 2u);

  EXPECT_EQ(Reserve(*leases[0], 100, 400), std::nullopt);
  EXPECT_EQ(leases[0]->readings()[1].remaining, 100u);
  EXPECT_NEAR(leases[0]->readings()[1].reset_seconds, 50, 1e-6);
  const auto tokens = Reserve(*leases[1], 100, 60);
  ASSERT_TRUE(tokens);
  EXPECT_EQ(tokens->code, "tokens");
  EXPECT_NEAR(tokens->retry_after_seconds, 6, 1e-6);
  const auto never = Reserve(*leases[2], 100, 501);
  ASSERT_TRUE(never);
  EXPECT_EQ(never->http, 429);
  EXPECT_EQ(never->retry_after_seconds, 0) << "waiting cannot help";
}

TEST_F(TenantLimitsTest, SettlesOnceHoweverOftenItEnds) {
  MakeAcme({.tokens_per_minute = 1000});
  auto lease = Lease();
  EXPECT_EQ(Reserve(*lease, 100, 400), std::nullopt);
  EXPECT_EQ(limits_->status().outstanding_tokens, 500u);
  lease->Settle({.prompt_tokens = 100, .output_tokens = 50});
  lease->Settle({.prompt_tokens = 100, .output_tokens = 50});
  lease.reset();
  ExpectAllSettled();
  EXPECT_EQ(Lease()->readings()[0].remaining, 850u);
}

TEST_F(TenantLimitsTest, ALeaseThatIsDroppedGivesEverythingBack) {
  MakeAcme({.concurrency = 1, .tokens_per_minute = 1000});
  for (int i = 0; i < 10; ++i) {
    const auto lease = Lease();
    EXPECT_EQ(Reserve(*lease, 0, 1000), std::nullopt);
  }
  ExpectAllSettled();
}

TEST_F(TenantLimitsTest, AnAnswerAfterTheEndIsSettledToo) {
  MakeAcme({.concurrency = 1, .tokens_per_minute = 1000});
  auto lease = Lease();
  backend_->slow = true;
  lease->Reserve({100, 900}, [](std::optional<ApiError>) { FAIL() << "the lease is gone"; });
  lease.reset();
  backend_->Answer();
  ExpectAllSettled();
  EXPECT_EQ(backend_->calls.back().op, LimitOp::kClose);
  EXPECT_EQ(backend_->calls.back().tokens, 1000);
  backend_->slow = false;
  EXPECT_EQ(Lease()->readings()[0].remaining, 1000u);
}

TEST_F(TenantLimitsTest, ALeaseThatNobodyTakesIsGivenBack) {
  MakeAcme({.concurrency = 1});
  backend_->slow = true;
  limits_->Admit({.tenant = "acme"}, [](Admitted) {});
  backend_->Answer();
  backend_->Answer();
  backend_->slow = false;
  EXPECT_NE(Lease(), nullptr);
}

TEST_F(TenantLimitsTest, WithdrawnRequestsDoNotCount) {
  MakeAcme({.requests_per_second = 1, .burst = 1});
  for (int i = 0; i < 5; ++i) Lease()->Withdraw();
  Lease()->Settle({});
  EXPECT_EQ(Refused().code, "requests");
}

TEST_F(TenantLimitsTest, ABudgetPaysByKindOfToken) {
  MakeAcme({.budget = 0.001});  // 1000 millionths: a thousand prompt tokens or a hundred others
  auto lease = Lease();
  EXPECT_EQ(Reserve(*lease, 500, 50), std::nullopt);
  const ApiError none = Refused();
  EXPECT_EQ(none.http, 402);
  EXPECT_EQ(none.code, "insufficient_balance");
  EXPECT_EQ(none.retry_after_seconds, 0);
  lease->Settle({.prompt_tokens = 500, .cached_tokens = 400, .output_tokens = 20});
  // 100 + 400 / 2 + 200 of 1000 are spent.
  auto next = Lease();
  const auto refused = Reserve(*next, 501, 0);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->http, 402);
  next.reset();
  EXPECT_EQ(Reserve(*Lease(), 500, 0), std::nullopt);
}

TEST_F(TenantLimitsTest, NewRulesHoldFromTheNextRequestOn) {
  MakeAcme({.concurrency = 1});
  const auto lease = Lease();
  EXPECT_EQ(Refused().code, "concurrency");
  LimitConfig config;
  config.tenants["acme"].limits.concurrency = 2;
  limits_->SetConfig(config);
  const auto second = Lease();
  EXPECT_EQ(Refused().code, "concurrency");
}

TEST_F(TenantLimitsTest, ATenantSeesItsOwnUse) {
  LimitConfig config;
  config.tenants["acme"].limits = {.concurrency = 2, .tokens_per_minute = 1000};
  config.tenants["other"].limits.concurrency = 1;
  Make(config);
  const auto lease = Lease();
  EXPECT_EQ(Reserve(*lease, 1, 99), std::nullopt);
  const auto own = limits_->Uses("acme", 10);
  ASSERT_EQ(own.size(), 2u);
  EXPECT_EQ(own[0].rule, "tokens_per_minute");
  EXPECT_EQ(own[0].used, 100);
  EXPECT_EQ(own[1].used, 1);
  EXPECT_EQ(limits_->Uses("", 10).size(), 3u);
  EXPECT_EQ(limits_->Uses("", 2).size(), 2u);
}

}  // namespace
}  // namespace choir
