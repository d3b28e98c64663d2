// Where a router process keeps answers that may be asked for again.
#pragma once

#include <memory>
#include <string>

#include "common/config/options.h"
#include "router/cache/result_cache.h"
#include "router/limits/limit_setup.h"

namespace choir {

struct ResultCacheOptions {
  std::string store = "off";  // "off", "memory", "redis"
  uint64_t bytes_max = uint64_t{64} << 20;
  uint64_t answer_bytes_max = uint64_t{1} << 20;
  Duration time = std::chrono::minutes(10);
};

// Of the section `result_cache`; both outlive the options.
void AddResultCacheOptions(ResultCacheOptions* options, RedisOptions* redis, OptionSet* set);

// Null: off. `post` runs a task on the owner thread and outlives the cache.
StatusOr<std::unique_ptr<ResultCache>> MakeResultCache(const ResultCacheOptions& options,
                                                       const RedisOptions& redis, OwnerPost post,
                                                       const Clock* clock);

}  // namespace choir
