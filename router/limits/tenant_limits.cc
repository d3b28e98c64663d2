#include "router/limits/tenant_limits.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "router/limits/limit_answer.h"
#include "router/limits/no_limits.h"

namespace choir {
namespace {

// What the counts of all requests share.
struct Shared {
  LimitBackend* backend = nullptr;
  uint64_t reserved = 0;  // tokens
  uint64_t settled = 0;
  std::unordered_set<const class Count*> live;
};

// One admitted request's part of the count. Outlives its lease while an answer is under way: only
// then is known what there is to give back.
class Count : public std::enable_shared_from_this<Count> {
 public:
  Count(Shared* shared, LimitCall call, const LimitAnswer& answer, TokenPrices prices)
      : shared_(shared), call_(std::move(call)), prices_(prices) {
    call_.admitted_us = answer.now_us;
    Learn(answer);
    rule_ = RuleOf(call_, answer);
    shared_->live.insert(this);
  }

  void Reserve(const TokenNeed& need, LimitLease::ReserveDone done) {
    LimitCall ask = call_;
    ask.op = LimitOp::kReserve;
    ask.tokens = static_cast<double>(need.prompt + need.output_max);
    ask.money = static_cast<double>(need.prompt) * prices_.prompt +
                static_cast<double>(need.output_max) * prices_.output;
    done_ = std::move(done);
    asking_ = true;
    shared_->backend->Call(ask, [self = shared_from_this(), ask](const LimitAnswer& answer) {
      self->OnReserved(ask, answer);
    });
  }

  // Once.
  void End(const Usage& usage, bool withdrawn) {
    usage_ = usage;
    withdrawn_ = withdrawn;
    ended_ = true;
    done_ = nullptr;
    if (!asking_) Close();
  }

  uint64_t outstanding() const { return static_cast<uint64_t>(call_.tokens); }
  const std::string& rule() const { return rule_; }
  const std::vector<LimitReading>& readings() const { return readings_; }

 private:
  void Learn(const LimitAnswer& answer) {
    if (answer.era != era_) call_.admitted_us = call_.op == LimitOp::kAdmit ? answer.now_us : -1;
    era_ = answer.era;
    readings_ = ReadingsOf(answer);
  }

  void OnReserved(const LimitCall& ask, const LimitAnswer& answer) {
    asking_ = false;
    std::optional<ApiError> error;
    if (answer.refusal) {
      error = ErrorOf(ask, answer);
      readings_ = error->limits;
    } else {
      call_.op = LimitOp::kReserve;
      call_.tokens = ask.tokens;
      call_.money = ask.money;
      Learn(answer);
      for (const ScopeReading& reading : answer.readings) {
        auto& spare = call_.spare.emplace_back();
        for (size_t b = 0; b < kNumBuckets; ++b) spare[b] = reading.buckets[b].spare;
      }
      shared_->reserved += outstanding();
    }
    if (ended_) return Close();
    std::exchange(done_, nullptr)(std::move(error));  // may end this
  }

  void Close() {
    shared_->live.erase(this);
    shared_->settled += outstanding();
    const uint64_t prompt = usage_.prompt_tokens;
    const uint64_t cached = std::min<uint64_t>(usage_.cached_tokens, prompt);
    call_.op = LimitOp::kClose;
    call_.withdrawn = withdrawn_;
    call_.era = era_;
    call_.used_tokens = static_cast<double>(prompt + usage_.output_tokens);
    call_.used_money = static_cast<double>(prompt - cached) * prices_.prompt +
                       static_cast<double>(cached) * prices_.cached +
                       static_cast<double>(usage_.output_tokens) * prices_.output;
    shared_->backend->Call(std::move(call_), [](const LimitAnswer&) {});
  }

  Shared* const shared_;
  LimitCall call_;  // from the reservation on it says what was reserved
  const TokenPrices prices_;
  std::string rule_;
  std::vector<LimitReading> readings_;
  uint64_t era_ = 0;
  LimitLease::ReserveDone done_;
  bool asking_ = false;
  bool ended_ = false, withdrawn_ = false;
  Usage usage_;
};

class Lease final : public LimitLease {
 public:
  explicit Lease(std::shared_ptr<Count> count) : count_(std::move(count)) {}
  ~Lease() override { End({}, false); }

  void Reserve(const TokenNeed& need, ReserveDone done) override {
    count_->Reserve(need, std::move(done));
  }
  void Settle(const Usage& usage) override { End(usage, false); }
  void Withdraw() override { End({}, true); }
  std::string rule() const override { return count_->rule(); }
  std::vector<LimitReading> readings() const override { return count_->readings(); }

 private:
  void End(const Usage& usage, bool withdrawn) {
    if (!std::exchange(ended_, true)) count_->End(usage, withdrawn);
  }

  const std::shared_ptr<Count> count_;
  bool ended_ = false;
};

class Configured final : public TenantLimits {
 public:
  Configured(LimitConfig config, std::unique_ptr<LimitBackend> backend)
      : config_(std::move(config)), backend_(std::move(backend)) {
    shared_.backend = backend_.get();
  }

  void SetConfig(LimitConfig config) override { config_ = std::move(config); }

  void Admit(const LimitQuery& query, AdmitDone done) override {
    LimitCall call{.op = LimitOp::kAdmit, .scopes = ScopesOf(query), .resumed = query.resumed};
    if (call.scopes->empty()) return done(MakeFreeLease());
    backend_->Call(call, [this, call, done = std::move(done)](const LimitAnswer& answer) {
      if (answer.refusal) return done(ErrorOf(call, answer));
      done(
          std::make_unique<Lease>(std::make_shared<Count>(&shared_, call, answer, config_.prices)));
    });
  }

  LimitStatus status() const override {
    const LimitBackendStatus backend = backend_->status();
    LimitStatus status{.store = backend.store,
                       .degraded = backend.degraded,
                       .reason = backend.reason,
                       .replicas = backend.replicas,
                       .scopes = backend.scopes,
                       .reserved_tokens = shared_.reserved,
                       .settled_tokens = shared_.settled,
                       .leases = shared_.live.size()};
    for (const Count* count : shared_.live) status.outstanding_tokens += count->outstanding();
    return status;
  }

  std::vector<LimitUse> Uses(const std::string& tenant, size_t max) override;

 private:
  const LimitRules& RulesOf(const std::string& tenant) const {
    const auto it = config_.tenants.find(tenant);
    return it == config_.tenants.end() ? config_.default_tenant : it->second.limits;
  }
  LimitScopes ScopesOf(const LimitQuery& query) const;
  void AddUses(const LimitScope& scope, std::vector<LimitUse>* out);

  LimitConfig config_;
  Shared shared_;
  const std::unique_ptr<LimitBackend> backend_;
};

LimitScopes Configured::ScopesOf(const LimitQuery& query) const {
  auto scopes = std::make_shared<std::vector<LimitScope>>();
  const auto add = [&](std::string name, const LimitRules& rules) {
    if (!rules.empty()) scopes->push_back(MakeScope(std::move(name), rules));
  };
  add("key:" + query.key_id, query.key_rules);
  add("tenant:" + query.tenant, RulesOf(query.tenant));
  const auto model = config_.models.find(query.model);
  if (model != config_.models.end()) add("model:" + query.model, model->second);
  add("global", config_.global);
  return scopes;
}

void Configured::AddUses(const LimitScope& scope, std::vector<LimitUse>* out) {
  constexpr LimitKind kKinds[kNumBuckets] = {LimitKind::kRequests, LimitKind::kMinuteTokens,
                                             LimitKind::kDayTokens, LimitKind::kBudget};
  const ScopeReading reading = backend_->Peek(scope);
  for (size_t b = 0; b < kNumBuckets; ++b) {
    if (!scope.buckets[b]) continue;
    const double unit = b == kBudgetBucket ? 1e6 : 1;
    out->push_back({scope.name, LimitKindName(kKinds[b]),
                    (reading.buckets[b].level + reading.buckets[b].reserved) / unit,
                    scope.buckets[b]->capacity / unit});
  }
  if (scope.concurrency) {
    out->push_back(
        {scope.name, LimitKindName(LimitKind::kConcurrency), reading.running, *scope.concurrency});
  }
}

std::vector<LimitUse> Configured::Uses(const std::string& tenant, size_t max) {
  std::vector<LimitUse> out;
  if (!tenant.empty()) {
    AddUses(MakeScope("tenant:" + tenant, RulesOf(tenant)), &out);
    return out;
  }
  AddUses(MakeScope("global", config_.global), &out);
  for (const auto& [model, rules] : config_.models)
    AddUses(MakeScope("model:" + model, rules), &out);
  for (const auto& [name, settings] : config_.tenants) {
    if (out.size() >= max) break;
    AddUses(MakeScope("tenant:" + name, settings.limits), &out);
  }
  if (out.size() > max) out.resize(max);
  return out;
}

}  // namespace

std::unique_ptr<TenantLimits> MakeTenantLimits(LimitConfig config,
                                               std::unique_ptr<LimitBackend> backend) {
  return std::make_unique<Configured>(std::move(config), std::move(backend));
}

}  // namespace choir
