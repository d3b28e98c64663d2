#include "router/limits/redis/redis_backend.h"

#include <deque>
#include <unordered_map>
#include <utility>

#include "common/base/log.h"
#include "router/limits/limit_book.h"

namespace choir {
namespace {

constexpr size_t kScopesEachSync = 100;

class RedisBackend final : public LimitBackend {
 public:
  RedisBackend(RedisBackendOptions options, std::unique_ptr<ScriptRunner> runner,
               const Clock* clock)
      : options_(std::move(options)), clock_(clock), runner_(std::move(runner)) {
    runner_->SetEvents({.up = [this] { OnUp(); },
                        .down = [this](const std::string& why) { OnDown(why); },
                        .tick = [this] { OnTick(); }});
  }
  ~RedisBackend() override {
    if (state_ == State::kUp) runner_->Run(EncodeLeave(Caller()), [](const auto&) {});
  }

  void Call(LimitCall call, Done done) override {
    if (state_ == State::kUp) return Send(std::move(call), std::move(done));
    if (state_ == State::kSyncing && held_.size() < options_.held_max) {
      held_.push_back({std::move(call), std::move(done)});
      return;
    }
    Local(std::move(call), done);
  }

  ScopeReading Peek(const LimitScope& scope) override {
    ScopeReading reading = book_.Read(scope, NowUs());
    // The book is kept in shares.
    for (BucketReading& bucket : reading.buckets) bucket.level *= replicas_;
    return reading;
  }

  LimitBackendStatus status() const override {
    return {.store = options_.name,
            .degraded = state_ != State::kUp,
            .reason = state_ == State::kUp ? "" : reason_,
            .replicas = replicas_,
            .scopes = book_.size()};
  }

 private:
  // kSyncing: Redis is just being told what this router holds; calls wait for that. kWaiting: Redis
  // knows, but not yet what the other routers used meanwhile; the share holds still.
  enum class State { kDown, kSyncing, kWaiting, kUp };
  struct Held {
    LimitCall call;
    Done done;
  };

  double NowUs() const {
    return std::chrono::duration<double, std::micro>(clock_->Now().time_since_epoch()).count();
  }
  ScriptCaller Caller() const {
    return {.router = options_.router,
            .prefix = options_.prefix,
            .now_us = options_.now_us ? options_.now_us() : 0};
  }
  std::shared_ptr<std::vector<LimitScope>> Shares(const LimitCall& call) const {
    auto shares = std::make_shared<std::vector<LimitScope>>();
    for (const LimitScope& scope : *call.scopes) shares->push_back(ShareOf(scope, replicas_));
    return shares;
  }
  // Another era's clock and counts say nothing here.
  void ForgetOtherEra(LimitCall* call) const {
    if (call->era == era_) return;
    call->admitted_us = -1;
    call->spare.clear();
  }

  void Send(LimitCall call, Done done) {
    ForgetOtherEra(&call);
    ++under_way_;
    ScriptCall script = EncodeCall(Caller(), call);
    runner_->Run(std::move(script), [this, call = std::move(call), done = std::move(done)](
                                        const StatusOr<std::vector<std::string>>& reply) {
      OnReply(call, done, reply);
    });
  }

  void OnReply(const LimitCall& call, const Done& done,
               const StatusOr<std::vector<std::string>>& reply) {
    --under_way_;
    double replicas = replicas_;
    StatusOr<LimitAnswer> answer = reply.ok() ? DecodeAnswer(*reply, call.scopes->size(), &replicas)
                                              : StatusOr<LimitAnswer>(reply.status());
    if (!answer.ok()) {
      Fail(answer.status(), reply.ok());
      return Local(call, done);
    }
    // A router that has yet to say that it lives is one nevertheless.
    replicas_ = std::max(1.0, replicas);
    answer->scopes = call.scopes;
    answer->era = era_;
    book_.Record(call, *answer, 1 / replicas_, *Shares(call), NowUs());
    Remember(call.op, *call.scopes);
    done(*answer);
    if (resync_ && under_way_ == 0) Sync();
  }

  void Local(LimitCall call, const Done& done) {
    ForgetOtherEra(&call);
    const LimitScopes whole = call.scopes;
    call.scopes = Shares(call);
    Remember(call.op, *whole);
    LimitAnswer answer = book_.Apply(call, NowUs());
    answer.era = era_;
    done(answer);
  }

  // The whole limits of what is in the book. A request that ends may know older ones.
  void Remember(LimitOp op, const std::vector<LimitScope>& scopes) {
    if (op != LimitOp::kAdmit) return;
    for (const LimitScope& scope : scopes) known_.insert_or_assign(scope.name, scope);
    if (known_.size() < 2 * book_.size() + 64) return;
    std::unordered_map<std::string, LimitScope> kept;
    book_.ForEach(NowUs(), [&](const std::string& name, const LimitBook::Scope&) {
      if (const auto it = known_.find(name); it != known_.end()) kept.insert(*it);
    });
    known_ = std::move(kept);
  }

  void OnUp() {
    resync_ = true;
    reason_ = "telling Redis what this router holds";
    Sync();
  }

  void Fail(const Status& status, bool nonsense) {
    if (nonsense) runner_->Restart(MessageOf(status));
    OnDown(MessageOf(status));
  }

  void OnDown(const std::string& why) {
    if (state_ == State::kUp) {
      CHOIR_LOG(warn, "{}: {}; this router's share of the limits (1 of {:.0f}) holds",
                options_.name, why, replicas_);
      ++era_;
      wait_until_us_ = 0;
    } else if (why != reason_) {
      CHOIR_LOG(warn, "{}: {}", options_.name, why);
    }
    state_ = State::kDown;
    resync_ = false;
    reason_ = why;
    ReleaseHeld();
  }

  // REQUIRES: no call is under way, so the counts of both sides are the same calls'.
  void Sync() {
    resync_ = false;
    state_ = State::kSyncing;
    std::vector<std::vector<HeldScope>> parts(1);
    book_.ForEach(NowUs(), [&](const std::string& name, const LimitBook::Scope& scope) {
      const auto it = known_.find(name);
      if (it == known_.end()) return;
      if (parts.back().size() == kScopesEachSync) parts.emplace_back();
      parts.back().push_back({it->second, scope});
    });
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool last = i + 1 == parts.size();
      runner_->Run(
          EncodeSync(Caller(), NewSync(), parts[i]),
          [this, last](const StatusOr<std::vector<std::string>>& reply) { OnSynced(reply, last); });
    }
  }

  void OnSynced(const StatusOr<std::vector<std::string>>& reply, bool last) {
    if (state_ != State::kSyncing) return;
    const StatusOr<SyncAnswer> answer =
        reply.ok() ? DecodeSync(*reply) : StatusOr<SyncAnswer>(reply.status());
    if (!answer.ok()) return Fail(answer.status(), reply.ok());
    if (!last) return;
    book_.MarkShared();
    redis_era_ = answer->era;
    synced_us_ = NowUs();
    if (wait_until_us_ == 0) wait_until_us_ = synced_us_ + LeaseUs();
    if (answer->replicas < replicas_ && synced_us_ < wait_until_us_) {
      state_ = State::kWaiting;
      reason_ =
          fmt::format("{:.0f} of {:.0f} routers are back at Redis", answer->replicas, replicas_);
      return ReleaseHeld();
    }
    replicas_ = answer->replicas;
    state_ = State::kUp;
    ++era_;
    CHOIR_LOG(info, "{}: limits are counted there, by {:.0f} routers", options_.name, replicas_);
    ReleaseHeld();
  }

  void ReleaseHeld() {
    for (Held& held : std::exchange(held_, {})) Call(std::move(held.call), std::move(held.done));
  }

  void OnTick() {
    if (state_ == State::kWaiting) return Sync();
    const bool due = NowUs() - synced_us_ >= LeaseUs() / 3;
    if (state_ == State::kUp && due) Heartbeat();
  }

  void Heartbeat() {
    synced_us_ = NowUs();
    runner_->Run(EncodeSync(Caller(), NewSync(), {}),
                 [this](const StatusOr<std::vector<std::string>>& reply) {
                   if (state_ != State::kUp) return;
                   const StatusOr<SyncAnswer> answer =
                       reply.ok() ? DecodeSync(*reply) : StatusOr<SyncAnswer>(reply.status());
                   if (!answer.ok()) return Fail(answer.status(), reply.ok());
                   replicas_ = answer->replicas;
                   if (answer->lost || answer->era != redis_era_) OnLost();
                 });
  }

  // Redis took this router for dead, or forgot everything: it is told anew. Calls wait meanwhile.
  void OnLost() {
    CHOIR_LOG(warn, "{}: this router's part was lost there and is told anew", options_.name);
    state_ = State::kSyncing;
    resync_ = true;
    wait_until_us_ = NowUs();  // the others are where they were
    if (under_way_ == 0) Sync();
  }

  SyncCall NewSync() {
    return {.lease_us = LeaseUs(),
            .known_era = redis_era_,
            .new_era = fmt::format("{}-{}", options_.router, ++syncs_)};
  }

  double LeaseUs() const {
    return std::chrono::duration<double, std::micro>(options_.lease).count();
  }

  const RedisBackendOptions options_;
  const Clock* const clock_;
  LimitBook book_;  // in shares: levels as Redis said last, running and reserved this router's own
  std::unordered_map<std::string, LimitScope> known_;
  State state_ = State::kDown;
  std::string reason_ = "not connected yet";
  double replicas_ = 1;
  uint64_t era_ = 1;       // of this backend's answers
  std::string redis_era_;  // of the data there; empty: not known
  uint64_t syncs_ = 0;
  double synced_us_ = 0;      // when Redis last heard that this router lives
  double wait_until_us_ = 0;  // for the other routers, after a loss; 0: from the next sync on
  size_t under_way_ = 0;
  bool resync_ = false;
  std::deque<Held> held_;
  const std::unique_ptr<ScriptRunner> runner_;  // last: its destruction ends what is under way
};

}  // namespace

std::unique_ptr<LimitBackend> MakeRedisLimitBackend(RedisBackendOptions options,
                                                    std::unique_ptr<ScriptRunner> runner,
                                                    const Clock* clock) {
  return std::make_unique<RedisBackend>(std::move(options), std::move(runner), clock);
}

}  // namespace choir
