#include "router/cache/redis_result_cache.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"

namespace choir {

// KEYS[1]: the question. ARGV: nothing, to be told the answer, or the answer and how many
// milliseconds it is good for.
const char* const kResultScript = R"(
if ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {}
end
local known = redis.call('GET', KEYS[1])
if known then return {known} end
return {}
)";

namespace {

class RedisResultCache final : public ResultCache {
 public:
  RedisResultCache(std::string name, std::string prefix, Duration time, size_t answer_bytes_max,
                   std::unique_ptr<ScriptRunner> runner)
      : name_(std::move(name)),
        prefix_(std::move(prefix)),
        time_(time),
        answer_bytes_max_(answer_bytes_max),
        runner_(std::move(runner)) {
    runner_->SetEvents({.up = [this] { OnUp(); },
                        .down = [this](const std::string& why) { OnDown(why); },
                        .tick = [] {}});
  }

  void Find(const ResultKey& key, Found done) override {
    if (!problem_.empty()) return done(std::nullopt);
    runner_->Run({.keys = {NameOf(key)}, .arguments = {}},
                 [done = std::move(done)](const StatusOr<std::vector<std::string>>& reply) {
                   const bool known = reply.ok() && reply->size() == 1;
                   done(known ? DecodeKnownAnswer(reply->front()) : std::nullopt);
                 });
  }

  void Put(const ResultKey& key, const KnownAnswer& answer) override {
    if (!problem_.empty()) return;
    std::string bytes = EncodeKnownAnswer(answer);
    if (bytes.size() > answer_bytes_max_) return;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time_).count();
    runner_->Run({.keys = {NameOf(key)}, .arguments = {std::move(bytes), std::to_string(ms)}},
                 [](const auto&) {});
  }

  State state() const override { return {.store = name_, .problem = problem_}; }

 private:
  std::string NameOf(const ResultKey& key) const { return prefix_ + "answer:" + ToHex(key); }
  void OnUp() {
    CHOIR_LOG(info, "{}: answers are kept there", name_);
    problem_.clear();
  }
  void OnDown(const std::string& why) {
    if (why != problem_) CHOIR_LOG(warn, "{}: {}; answers are computed", name_, why);
    problem_ = why.empty() ? "lost" : why;
  }

  const std::string name_, prefix_;
  const Duration time_;
  const size_t answer_bytes_max_;
  std::string problem_ = "not connected yet";
  const std::unique_ptr<ScriptRunner> runner_;  // last: its destruction ends what is under way
};

}  // namespace

std::unique_ptr<ResultCache> MakeRedisResultCache(std::string name, std::string prefix,
                                                  Duration time, size_t answer_bytes_max,
                                                  std::unique_ptr<ScriptRunner> runner) {
  return std::make_unique<RedisResultCache>(std::move(name), std::move(prefix), time,
                                            answer_bytes_max, std::move(runner));
}

}  // namespace choir
