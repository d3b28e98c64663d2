// A connection to Redis that keeps itself up: one thread with one socket, plain or TLS, pipelined
// calls, a time limit for each answer.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/tls/tls_options.h"
#include "router/limits/redis/name_lookup.h"
#include "router/limits/redis/redis_url.h"
#include "router/limits/redis/script_runner.h"

namespace choir {

struct RedisConnectionOptions {
  RedisAddress address;
  TlsOptions tls;  // of an address with TLS; the files are read for each connection
  NameLookupOptions lookup;
  std::string script;
  // An answer that takes longer counts as none, and the connection starts anew. Connecting has ten
  // times as long, besides looking the host's name up.
  Duration timeout = std::chrono::milliseconds(100);
  Duration tick = std::chrono::milliseconds(200);  // between Events.tick
  Duration retry_min = std::chrono::milliseconds(50);
  Duration retry_max = std::chrono::seconds(1);
  size_t pending_max = 10'000;  // calls under way; beyond, a call has an error at once
};

// `post` runs a task on the owner thread; at most one task at a time is under way. Events and
// answers come on the owner thread. The destructor sends what was given, joins, and drops answers
// that were not yet delivered.
std::unique_ptr<ScriptRunner> ConnectToRedis(RedisConnectionOptions options,
                                             std::function<void(std::function<void()>)> post);

}  // namespace choir
