#include "router/limits/limit_setup.h"

#include <utility>

#include "common/files/read_file.h"
#include "router/limits/redis/redis_backend.h"
#include "router/limits/redis/redis_connection.h"

namespace choir {
namespace {

constexpr size_t kUrlBytesMax = 4096;

}  // namespace

Status ReadRedisUrlFile(RedisOptions* redis) {
  if (redis->url_file.empty()) return absl::OkStatus();
  if (!redis->url.empty()) {
    return InvalidArgument("redis.url, redis.url_file: give one of them");
  }
  CHOIR_ASSIGN_OR_RETURN(std::string text, ReadTextFile(redis->url_file, kUrlBytesMax));
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  if (text.empty()) return InvalidArgument("redis.url_file: {} is empty", redis->url_file);
  redis->url = std::move(text);
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<LimitBackend>> MakeLimitBackend(const RedisOptions& redis,
                                                         const std::string& router, OwnerPost post,
                                                         const Clock* clock) {
  if (redis.url.empty()) return MakeMemoryLimitBackend(clock);
  RedisConnectionOptions connection;
  CHOIR_ASSIGN_OR_RETURN(connection.address, ParseRedisUrl(redis.url));
  connection.script = kLimitScript;
  connection.timeout = redis.timeout;
  RedisBackendOptions backend = {.name = "redis " + connection.address.Name(),
                                 .prefix = redis.prefix,
                                 .router = router,
                                 .lease = redis.lease};
  return MakeRedisLimitBackend(std::move(backend),
                               ConnectToRedis(std::move(connection), std::move(post)), clock);
}

}  // namespace choir
