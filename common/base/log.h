// Logging for people and machines: one line an event, to stderr, through spdlog. Thread-safe.
//   CHOIR_LOG(info, "rank {} joined epoch {}", rank, epoch);
// Levels: trace debug info warn error. No prompts, keys or other content in a log line.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

#include "common/base/status.h"

namespace choir {

// Call once at start. `name` is the process ("router", "worker 3"); level is one of the names
// above.
Status InitLog(std::string_view name, std::string_view level);

}  // namespace choir

#define CHOIR_LOG(level, ...) ::spdlog::level(__VA_ARGS__)
