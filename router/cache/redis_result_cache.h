// Answers kept in Redis, for all routers that use it. A Redis that is lost or slow knows nothing:
// requests are computed.
#pragma once

#include <memory>
#include <string>

#include "router/cache/result_cache.h"
#include "router/limits/redis/script_runner.h"

namespace choir {

// What `runner` is connected with.
extern const char* const kResultScript;

// Keys are `prefix` and the question's hash; each ends after `time`. How much there may be is for
// Redis' maxmemory; an answer of more than `answer_bytes_max` is left out.
std::unique_ptr<ResultCache> MakeRedisResultCache(std::string name, std::string prefix,
                                                  Duration time, size_t answer_bytes_max,
                                                  std::unique_ptr<ScriptRunner> runner);

}  // namespace choir
