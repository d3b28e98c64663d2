#include "tests/router/limits/limit_world.h"

#include <ostream>

#include "common/base/check.h"
#include "tests/router/limits/redis_router.h"
#include "tests/support/redis_server.h"
#include "tests/support/sim_clock.h"

namespace choir {
namespace {

class MemoryWorld final : public LimitWorld {
 public:
  LimitBackend& backend(size_t) override { return *backend_; }
  size_t num_routers() const override { return 1; }
  void Advance(double us) override {
    clock_.Advance(std::chrono::nanoseconds(static_cast<int64_t>(us * 1e3)));
  }
  double NowUs() const override { return Seconds(clock_.Now().time_since_epoch()) * 1e6; }
  void RunUntil(const std::function<bool()>& done) override { CHOIR_CHECK(done()); }

 private:
  SimClock clock_;
  std::unique_ptr<LimitBackend> backend_ = MakeMemoryLimitBackend(&clock_);
};

// Two routers with one Redis, at times that the test gives.
class RedisWorld final : public LimitWorld {
 public:
  explicit RedisWorld(std::unique_ptr<RedisServer> server)
      : server_(std::move(server)), routers_(2) {
    RedisRouterOptions options;
    options.url = server_->url();
    options.lease = std::chrono::hours(1'000'000);
    options.timeout = std::chrono::seconds(30);
    options.now_us = [this] { return NowUs(); };
    for (size_t i = 0; i < routers_.size(); ++i) {
      options.name = "r" + std::to_string(i);
      routers_[i] = std::make_unique<RedisRouter>(options, &clock_);
      RunUntil([&] { return !routers_[i]->backend().status().degraded; });
    }
  }
  LimitBackend& backend(size_t router) override { return routers_[router]->backend(); }
  size_t num_routers() const override { return routers_.size(); }
  void Advance(double us) override {
    clock_.Advance(std::chrono::nanoseconds(static_cast<int64_t>(us * 1e3)));
  }
  double NowUs() const override { return Seconds(clock_.Now().time_since_epoch()) * 1e6; }
  void RunUntil(const std::function<bool()>& done) override {
    std::vector<RedisRouter*> routers;
    for (const auto& router : routers_) {
      if (router) routers.push_back(router.get());
    }
    CHOIR_CHECK(choir::RunUntil(routers, done));
  }

 private:
  SimClock clock_;
  const std::unique_ptr<RedisServer> server_;
  std::vector<std::unique_ptr<RedisRouter>> routers_;
};

}  // namespace

void PrintTo(const LimitWorldKind& kind, std::ostream* out) { *out << kind.name; }

std::vector<LimitWorldKind> LimitWorlds() {
  return {{"Memory", [] { return std::make_unique<MemoryWorld>(); }},
          {"Redis", []() -> std::unique_ptr<LimitWorld> {
             auto server = RedisServer::Start();
             if (server == nullptr) return nullptr;
             return std::make_unique<RedisWorld>(std::move(server));
           }}};
}

LimitScopes ScopesOf(std::vector<std::pair<std::string, LimitRules>> scopes) {
  auto out = std::make_shared<std::vector<LimitScope>>();
  for (auto& [name, rules] : scopes) {
    CHOIR_CHECK(CompleteLimitRules(&rules).ok());
    out->push_back(MakeScope(name, rules));
  }
  return out;
}

AskedRequest AskAdmit(LimitWorld& world, const LimitScopes& scopes, size_t router) {
  AskedRequest request;
  LimitCall call{.op = LimitOp::kAdmit, .scopes = scopes};
  request.answer = world.Ask(call, router);
  request.admitted = !request.answer.refusal;
  request.closing = call;
  request.closing.op = LimitOp::kClose;
  request.closing.admitted_us = request.answer.now_us;
  request.closing.era = request.answer.era;
  return request;
}

LimitAnswer AskReserve(LimitWorld& world, AskedRequest* request, double tokens, size_t router) {
  LimitCall call{.op = LimitOp::kReserve, .scopes = request->closing.scopes, .tokens = tokens};
  const LimitAnswer answer = world.Ask(call, router);
  request->answer = answer;
  request->admitted = !answer.refusal;
  if (answer.refusal) return answer;
  request->closing.tokens = tokens;
  for (const ScopeReading& reading : answer.readings) {
    auto& spare = request->closing.spare.emplace_back();
    for (size_t b = 0; b < kNumBuckets; ++b) spare[b] = reading.buckets[b].spare;
  }
  return answer;
}

void AskClose(LimitWorld& world, AskedRequest request, double used_tokens, size_t router) {
  request.closing.used_tokens = used_tokens;
  world.Ask(std::move(request.closing), router);
}

}  // namespace choir
