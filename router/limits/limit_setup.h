// Where a router process counts its limits.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/config/options.h"
#include "common/tls/tls_options.h"
#include "router/limits/limit_backend.h"
#include "router/limits/redis/redis_connection.h"

namespace choir {

// Where routers count limits together.
struct RedisOptions {
  std::string url;                                           // empty: each router counts on its own
  std::string url_file;                                      // holds it, for ReadRedisUrlFile
  TlsOptions tls = {.prefix = "redis-", .file_prefix = ""};  // of a rediss:// URL
  std::string prefix = "choir:";
  Duration timeout = std::chrono::milliseconds(100);
  Duration lease = std::chrono::seconds(10);
};

// Of the section `redis`; all outlive the options. What the files hold, `url_file` among them, is
// left to OpenRedis where a start may be tried again.
void AddRedisOptions(RedisOptions* redis, const TlsOptions* own, OptionSet* set);

// Fills in `url` from `url_file` where that is given. Errors name the file, never what is in it.
Status ReadRedisUrlFile(RedisOptions* redis);

// That the URL is good and, where it goes beyond this machine, TLS, unless plain text is allowed
// for Redis or, in `own`, for all that this part does; and the files of TLS. OK without a URL.
Status CheckRedis(const RedisOptions& redis, const TlsOptions& own);

// Both: what a start does.
Status OpenRedis(RedisOptions* redis, const TlsOptions& own);

// How to connect. REQUIRES: checked.
StatusOr<RedisConnectionOptions> RedisConnectionOf(const RedisOptions& redis, std::string script);

using OwnerPost = std::function<void(std::function<void()>)>;

// In memory, or in Redis, which need not be there yet. `router` is unique to the process; `post`
// runs a task on the owner thread and outlives the backend.
StatusOr<std::unique_ptr<LimitBackend>> MakeLimitBackend(const RedisOptions& redis,
                                                         const std::string& router, OwnerPost post,
                                                         const Clock* clock);

}  // namespace choir
