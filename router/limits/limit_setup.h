// Where a router process counts its limits.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/limits/limit_backend.h"

namespace choir {

// Where routers count limits together.
struct RedisOptions {
  std::string url;       // empty: each router counts on its own
  std::string url_file;  // holds it, for ReadRedisUrlFile
  std::string prefix = "choir:";
  Duration timeout = std::chrono::milliseconds(100);
  Duration lease = std::chrono::seconds(10);
};

// Fills in `url` from `url_file` where that is given. Errors name the file, never what is in it.
Status ReadRedisUrlFile(RedisOptions* redis);

using OwnerPost = std::function<void(std::function<void()>)>;

// In memory, or in Redis, which need not be there yet. `router` is unique to the process; `post`
// runs a task on the owner thread and outlives the backend.
StatusOr<std::unique_ptr<LimitBackend>> MakeLimitBackend(const RedisOptions& redis,
                                                         const std::string& router, OwnerPost post,
                                                         const Clock* clock);

}  // namespace choir
