// Logging for people and machines: one line an event, to stderr, through spdlog. Thread-safe.
//   CHOIR_LOG(info, "rank {} joined epoch {}", rank, epoch);
//   LogFields(spdlog::level::info, "request", {{"request_id", id}, {"status", 200}});
// Levels: trace debug info warn error off. Formats: "text", and "json": an object a line with time,
// level, process, message and the fields. No prompts, keys or other content in a log line.
#pragma once

#include <spdlog/spdlog.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "common/base/status.h"

namespace choir {

// Call once at start. `name` is the process ("router", "worker 3").
Status InitLog(std::string_view name, std::string_view level, std::string_view format = "text");

// From the next line on.
Status SetLogLevel(std::string_view level);
std::string LogLevel();

// A named value; one that is an empty string is left out.
struct LogField {
  std::string_view name;
  std::variant<std::string, int64_t, double> value;
};
// Most often: which request a line is about.
void LogFields(spdlog::level::level_enum level, std::string_view message,
               std::initializer_list<LogField> fields);

}  // namespace choir

#define CHOIR_LOG(level, ...) ::spdlog::level(__VA_ARGS__)
