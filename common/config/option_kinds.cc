// The kinds of options: how the text of a value is read, and what the schema of the file says of
// it.
#include <algorithm>
#include <charconv>

#include "common/config/options_impl.h"

namespace choir {
namespace {

template <typename T>
StatusOr<T> ParseNumber(const std::string& text, T min, T max, const char* kind) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range ||
      (error == std::errc() && rest == end && !(value >= min && value <= max))) {
    return InvalidArgument("'{}' is out of range {}..{}", text, min, max);
  }
  if (error != std::errc() || rest != end) return InvalidArgument("'{}' is not {}", text, kind);
  return value;
}

template <typename T>
std::string NumberSchema(const char* type, T min, T max) {
  return fmt::format(R"({{"type": "{}", "minimum": {}, "maximum": {}}})", type, min, max);
}

// A number in the unit's own measure, or a text with one of `units` behind it. Whether the text is
// in range is left to the program.
std::string UnitSchema(const char* units, const std::string& min, const std::string& max) {
  return fmt::format(
      R"({{"type": ["string", "number"], "pattern": "^[0-9]+([.][0-9]+)? ?({})?$", "minimum": {}, "maximum": {}}})",
      units, min, max);
}

}  // namespace

void OptionSet::Add(std::string* value, OptionInfo info) {
  impl_->AddOption(std::move(info), {.default_text = *value, .schema = R"({"type": "string"})"},
                   [value](const std::string& text) {
                     *value = text;
                     return absl::OkStatus();
                   });
}

void OptionSet::Add(bool* value, OptionInfo info) {
  auto set = [value](const std::string& text) -> Status {
    if (text == "true" || text == "yes" || text == "on") return *value = true, absl::OkStatus();
    if (text == "false" || text == "no" || text == "off") return *value = false, absl::OkStatus();
    return InvalidArgument("'{}' is not true or false", text);
  };
  impl_->AddOption(std::move(info),
                   {.default_text = *value ? "true" : "false",
                    .is_flag = true,
                    .schema = R"({"type": "boolean"})"},
                   set);
}

void OptionSet::Add(int64_t* value, OptionInfo info, int64_t min, int64_t max) {
  impl_->AddOption(std::move(info),
                   {.default_text = std::to_string(*value),
                    .range = fmt::format("{}..{}", min, max),
                    .schema = NumberSchema("integer", min, max)},
                   [=](const std::string& text) -> Status {
                     CHOIR_ASSIGN_OR_RETURN(*value,
                                            ParseNumber<int64_t>(text, min, max, "an integer"));
                     return absl::OkStatus();
                   });
}

void OptionSet::Add(double* value, OptionInfo info, double min, double max) {
  impl_->AddOption(std::move(info),
                   {.default_text = fmt::format("{}", *value),
                    .range = fmt::format("{}..{}", min, max),
                    .schema = NumberSchema("number", min, max)},
                   [=](const std::string& text) -> Status {
                     CHOIR_ASSIGN_OR_RETURN(*value,
                                            ParseNumber<double>(text, min, max, "a number"));
                     return absl::OkStatus();
                   });
}

void OptionSet::Add(std::vector<std::string>* value, OptionInfo info) {
  impl_->AddOption(std::move(info),
                   {.repeated = true,
                    .schema = R"({"type": "array", "items": {"type": "string"}})",
                    .clear = [value] { value->clear(); }},
                   [value](const std::string& text) {
                     value->push_back(text);
                     return absl::OkStatus();
                   });
}

void OptionSet::AddChoice(std::string* value, OptionInfo info, std::vector<std::string> choices) {
  const std::string range = fmt::format("{}", fmt::join(choices, " | "));
  impl_->AddOption(std::move(info),
                   {.default_text = *value,
                    .range = range,
                    .schema = fmt::format(R"({{"enum": ["{}"]}})", fmt::join(choices, R"(", ")"))},
                   [=](const std::string& text) -> Status {
                     if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
                       return InvalidArgument("'{}' is not one of {}", text, range);
                     }
                     *value = text;
                     return absl::OkStatus();
                   });
}

void OptionSet::AddBytes(uint64_t* value, OptionInfo info, uint64_t min, uint64_t max) {
  impl_->AddOption(std::move(info),
                   {.default_text = fmt::format("{}", *value),
                    .range = fmt::format("{}..{} bytes", min, max),
                    .schema = UnitSchema("B|KiB|MiB|GiB|TiB|KB|MB|GB|TB", fmt::format("{}", min),
                                         fmt::format("{}", max))},
                   [=](const std::string& text) -> Status {
                     CHOIR_ASSIGN_OR_RETURN(const uint64_t parsed, ParseBytes(text));
                     if (parsed < min || parsed > max) {
                       return InvalidArgument("'{}' is out of range {}..{} bytes", text, min, max);
                     }
                     *value = parsed;
                     return absl::OkStatus();
                   });
}

void OptionSet::AddDuration(Duration* value, OptionInfo info, Duration min, Duration max) {
  const std::string range = fmt::format("{}s..{}s", Seconds(min), Seconds(max));
  impl_->AddOption(std::move(info),
                   {.default_text = fmt::format("{}s", Seconds(*value)),
                    .range = range,
                    .schema = UnitSchema("us|ms|s|m|h", fmt::format("{}", Seconds(min)),
                                         fmt::format("{}", Seconds(max)))},
                   [=](const std::string& text) -> Status {
                     CHOIR_ASSIGN_OR_RETURN(const Duration parsed, ParseDuration(text));
                     if (parsed < min || parsed > max) {
                       return InvalidArgument("'{}' is out of range {}", text, range);
                     }
                     *value = parsed;
                     return absl::OkStatus();
                   });
}

}  // namespace choir
