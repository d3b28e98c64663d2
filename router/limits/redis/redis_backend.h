// The count of limits that routers share, in Redis: one script call a decision. While Redis cannot
// be reached, this router's share of the limits (a part for each router that was last seen) is
// counted here, beginning with what was used by then; when Redis is back it is told what was used
// meanwhile, and what this router holds, and counts again once the other routers have told it too
// (or a lease later). Owner thread.
#pragma once

#include <memory>
#include <string>

#include "common/base/clock.h"
#include "router/limits/limit_backend.h"
#include "router/limits/redis/script_runner.h"

namespace choir {

struct RedisBackendOptions {
  std::string name;               // for people: "redis 127.0.0.1:6379/0"
  std::string prefix = "choir:";  // of all keys
  std::string router;             // unique to this process
  // A router that is silent for so long is dead: what it held is free.
  Duration lease = std::chrono::seconds(10);
  // Calls that wait for a count that is just coming back; beyond, the share answers.
  size_t held_max = 10'000;
  // Redis' clock is not asked; for tests.
  std::function<double()> now_us;
};

std::unique_ptr<LimitBackend> MakeRedisLimitBackend(RedisBackendOptions options,
                                                    std::unique_ptr<ScriptRunner> runner,
                                                    const Clock* clock);

}  // namespace choir
