#include "common/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/base/print_error.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
using Fields = std::initializer_list<LogField>;

constexpr char kTime[] = "%Y-%m-%dT%H:%M:%S.%fZ";

// Of the line that this thread is writing: sinks format where the line is logged.
thread_local const Fields* line_fields = nullptr;

bool IsEmpty(const LogField& field) {
  const auto* text = std::get_if<std::string>(&field.value);
  return text != nullptr && text->empty();
}

// A word as it is; what has more in it as a JSON string.
std::string ForPeople(const std::string& text) {
  const bool word = text.find_first_of(" =\"\\") == std::string::npos && OneLine(text) == text;
  return word ? text : Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

class TextMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    std::string text = OneLine({message.payload.data(), message.payload.size()});
    for (const LogField& field : line_fields == nullptr ? Fields{} : *line_fields) {
      if (IsEmpty(field)) continue;
      text += fmt::format(" {}=", field.name);
      if (const auto* word = std::get_if<std::string>(&field.value)) text += ForPeople(*word);
      if (const auto* n = std::get_if<int64_t>(&field.value)) text += std::to_string(*n);
      if (const auto* x = std::get_if<double>(&field.value)) text += fmt::format("{:.6g}", *x);
    }
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<TextMessage>();
  }
};

class JsonMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const auto level = spdlog::level::to_string_view(message.level);
    Json line = {{"level", std::string(level.data(), level.size())},
                 {"process", std::string(message.logger_name.data(), message.logger_name.size())},
                 {"message", std::string(message.payload.data(), message.payload.size())}};
    for (const LogField& field : line_fields == nullptr ? Fields{} : *line_fields) {
      if (IsEmpty(field)) continue;
      std::visit([&](const auto& value) { line[std::string(field.name)] = value; }, field.value);
    }
    const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace);
    out.append(text.data() + 1, text.data() + text.size());  // "time" and the brace come before
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessage>();
  }
};

StatusOr<spdlog::level::level_enum> ParseLevel(std::string_view level) {
  const auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    return InvalidArgument("log level '{}' is not one of trace, debug, info, warn, error, off",
                           level);
  }
  return parsed;
}

}  // namespace

Status InitLog(std::string_view name, std::string_view level, std::string_view format) {
  CHOIR_ASSIGN_OR_RETURN(const auto parsed, ParseLevel(level));
  if (format != "text" && format != "json") {
    return InvalidArgument("log format '{}' is not one of text, json", format);
  }
  auto logger = std::make_shared<spdlog::logger>(std::string(name),
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
  if (format == "json") {
    formatter->add_flag<JsonMessage>('*').set_pattern(fmt::format("{{\"time\":\"{}\",%*", kTime));
  } else {
    formatter->add_flag<TextMessage>('*').set_pattern(fmt::format("{} %l %n %*", kTime));
  }
  logger->set_formatter(std::move(formatter));
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

Status SetLogLevel(std::string_view level) {
  CHOIR_ASSIGN_OR_RETURN(const auto parsed, ParseLevel(level));
  spdlog::default_logger_raw()->set_level(parsed);
  return absl::OkStatus();
}

std::string LogLevel() {
  const auto level = spdlog::default_logger_raw()->level();
  if (level == spdlog::level::warn) return "warn";  // as it is given; spdlog says "warning"
  const auto name = spdlog::level::to_string_view(level);
  return std::string(name.data(), name.size());
}

void LogFields(spdlog::level::level_enum level, std::string_view message,
               std::initializer_list<LogField> fields) {
  if (!spdlog::should_log(level)) return;
  line_fields = &fields;
  spdlog::log(level, "{}", message);
  line_fields = nullptr;
}

}  // namespace choir
