#include "router/text/json_fields.h"

#include <filesystem>

#include "router/text/unicode.h"

namespace choir::text {
namespace {

// The parser's words without its name and numbers: "[lib.kind.101] parse error at line 1, column 2:
// why". Of a single line the column is all there is to know.
std::string ReasonOf(std::string what, bool one_line) {
  const auto drop = [&what](std::string_view start) {
    if (what.starts_with(start)) what.erase(0, start.size());
  };
  if (what.starts_with('[') && what.find("] ") != std::string::npos) {
    what.erase(0, what.find("] ") + 2);
  }
  drop("parse error at ");
  if (one_line) drop("line 1, ");
  return unicode::Sanitize(what);
}

}  // namespace

StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& name) {
  // nlohmann throws; this is the one place that lets it.
  try {
    return nlohmann::json::parse(text);
  } catch (const std::exception& e) {
    return InvalidArgument("{}: not valid JSON: {}", name,
                           ReasonOf(e.what(), text.find('\n') == std::string_view::npos));
  }
}

Status RequireModelDirectory(const std::string& model_dir) {
  std::error_code error;
  if (std::filesystem::is_directory(model_dir, error)) return {};
  return NotFound("there is no directory {}; give the directory of a model", model_dir);
}

Status JsonField::Error(std::string_view problem) const {
  if (value_ == nullptr) return InvalidArgument("{}: {}; the field is missing", path_, problem);
  std::string shown = "an object";
  if (value_->is_array()) shown = fmt::format("a list of {}", value_->size());
  if (value_->is_primitive()) {
    shown = value_->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (shown.size() > 80) shown = unicode::Sanitize(shown.substr(0, 80)) + "...";
  }
  return InvalidArgument("{}: {}; got {}", path_, problem, shown);
}

JsonField JsonField::operator[](const char* key) const {
  const nlohmann::json* member = nullptr;
  if (value_ != nullptr && value_->is_object()) {
    const auto it = value_->find(key);
    if (it != value_->end()) member = &*it;
  }
  return JsonField(member, path_.ends_with(": ") ? path_ + key : path_ + "." + key);
}

JsonField JsonField::At(size_t index) const {
  return JsonField(&(*value_)[index], fmt::format("{}[{}]", path_, index));
}

Status JsonField::RequireObject() const {
  return value_ != nullptr && value_->is_object() ? Status() : Error("must be an object");
}

Status JsonField::RequireArray() const {
  return value_ != nullptr && value_->is_array() ? Status() : Error("must be a list");
}

StatusOr<std::string> JsonField::String() const {
  if (value_ == nullptr || !value_->is_string()) return Error("must be a string");
  return value_->get_ref<const std::string&>();
}

StatusOr<char32_t> JsonField::Character() const {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, String());
  size_t pos = 0;
  const char32_t c = text.empty() ? 0 : unicode::Next(text, &pos);
  if (text.empty() || pos != text.size()) return Error("must be a string of one character");
  return c;
}

StatusOr<bool> JsonField::Bool(std::optional<bool> fallback) const {
  if (!present() && fallback) return *fallback;
  if (value_ == nullptr || !value_->is_boolean()) return Error("must be true or false");
  return value_->get<bool>();
}

StatusOr<int64_t> JsonField::Integer(std::optional<int64_t> fallback, int64_t min,
                                     int64_t max) const {
  if (!present() && fallback) return *fallback;
  const std::string range = fmt::format("must be an integer in {}..{}", min, max);
  if (value_ == nullptr || !value_->is_number_integer()) return Error(range);
  const bool huge = value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX;
  if (huge || value_->get<int64_t>() < min || value_->get<int64_t>() > max) return Error(range);
  return value_->get<int64_t>();
}

}  // namespace choir::text
