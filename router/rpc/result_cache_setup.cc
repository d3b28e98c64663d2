#include "router/rpc/result_cache_setup.h"

#include <utility>

#include "router/cache/redis_result_cache.h"

namespace choir {

void AddResultCacheOptions(ResultCacheOptions* options, RedisOptions* redis, OptionSet* set) {
  set->AddChoice(&options->store,
                 {.key = "result_cache.store",
                  .help = "where answers to repeated questions are kept, of requests whose answer "
                          "depends on nothing else; redis: router.redis, for all routers"},
                 {"off", "memory", "redis"});
  set->AddBytes(&options->bytes_max,
                {.key = "result_cache.bytes_max", .help = "memory: what all of them may take"},
                1 << 10, uint64_t{1} << 40);
  set->AddBytes(
      &options->answer_bytes_max,
      {.key = "result_cache.answer_bytes_max", .help = "redis: a longer answer is not kept"},
      1 << 10, uint64_t{64} << 20);
  set->AddDuration(&options->time,
                   {.key = "result_cache.time", .help = "how long an answer is kept"},
                   std::chrono::seconds(1), std::chrono::hours(24 * 30));
  set->AddCheck([options, redis]() -> Status {
    const bool named = !redis->url.empty() || !redis->url_file.empty();
    if (options->store != "redis" || named) return absl::OkStatus();
    return InvalidArgument("result_cache.store: redis needs router.redis.url");
  });
}

StatusOr<std::unique_ptr<ResultCache>> MakeResultCache(const ResultCacheOptions& options,
                                                       const RedisOptions& redis, OwnerPost post,
                                                       const Clock* clock) {
  if (options.store == "off") return std::unique_ptr<ResultCache>();
  if (options.store == "memory") {
    return MakeMemoryResultCache(static_cast<size_t>(options.bytes_max), options.time, clock);
  }
  CHOIR_ASSIGN_OR_RETURN(auto connection, RedisConnectionOf(redis, kResultScript));
  std::string name = "redis " + connection.address.Name();
  return MakeRedisResultCache(std::move(name), redis.prefix, options.time,
                              static_cast<size_t>(options.answer_bytes_max),
                              ConnectToRedis(std::move(connection), std::move(post)));
}

}  // namespace choir
