#include "gateway/api/field_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/config/options.h"

namespace choir {

FieldReader::FieldReader(const Json& object, std::string path, RestError* error)
    : object_(object), path_(std::move(path)), error_(error) {}

void FieldReader::Fail(const std::string& name, const std::string& message) {
  if (error_->ok()) *error_ = InvalidValue(Path(name), fmt::format("{}: {}", Path(name), message));
}

const Json* FieldReader::Get(const std::string& name) {
  known_.push_back(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const Json* FieldReader::Require(const std::string& name) {
  const Json* value = Get(name);
  if (value == nullptr) Fail(name, "is required");
  return value;
}

std::optional<bool> FieldReader::Bool(const std::string& name) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return Fail(name, "must be true or false"), std::nullopt;
  return value->get<bool>();
}

std::optional<int64_t> FieldReader::Int(const std::string& name, int64_t min, int64_t max) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  const std::string range = fmt::format("must be an integer in {}..{}", min, max);
  if (!value->is_number()) return Fail(name, range), std::nullopt;
  int64_t n = 0;
  if (value->is_number_unsigned()) {
    const uint64_t u = value->get<uint64_t>();
    if (u > static_cast<uint64_t>(INT64_MAX)) return Fail(name, range), std::nullopt;
    n = static_cast<int64_t>(u);
  } else if (value->is_number_integer()) {
    n = value->get<int64_t>();
  } else {
    const double d = value->get<double>();  // 2.0 and 1e3 are integers in JSON
    if (!(std::abs(d) < 0x1p63) || d != std::floor(d)) return Fail(name, range), std::nullopt;
    n = static_cast<int64_t>(d);
  }
  if (n < min || n > max) return Fail(name, range), std::nullopt;
  return n;
}

std::optional<double> FieldReader::Number(const std::string& name, double min, double max,
                                          bool min_open) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  const std::string range = min_open
                                ? fmt::format("must be a number above {} and at most {}", min, max)
                                : fmt::format("must be a number in {}..{}", min, max);
  if (!value->is_number()) return Fail(name, range), std::nullopt;
  const double d = value->get<double>();
  if (!(d >= min && d <= max) || (min_open && d == min)) return Fail(name, range), std::nullopt;
  return d;
}

std::optional<std::string> FieldReader::String(const std::string& name, size_t bytes_max) {
  const Json* value = Get(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return Fail(name, "must be a string"), std::nullopt;
  std::string text = value->get<std::string>();
  if (text.size() > bytes_max) {
    return Fail(name, fmt::format("must be at most {} bytes", bytes_max)), std::nullopt;
  }
  return text;
}

std::vector<std::string> FieldReader::Strings(const std::string& name, size_t count_max) {
  const Json* value = Get(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  const std::string rule =
      fmt::format("must be a string or a list of at most {} strings", count_max);
  if (!value->is_array() || value->size() > count_max)
    return Fail(name, rule), std::vector<std::string>{};
  std::vector<std::string> out;
  for (const Json& item : *value) {
    if (!item.is_string()) return Fail(name, rule), std::vector<std::string>{};
    out.push_back(item.get<std::string>());
  }
  return out;
}

void FieldReader::Allow(const std::string& name) { known_.push_back(name); }

void FieldReader::Refuse(const std::string& name, const Json& harmless) {
  const Json* value = Get(name);
  if (value == nullptr || *value == harmless) return;
  known_.pop_back();  // never suggested
  if (error_->ok()) {
    *error_ =
        InvalidValue(Path(name), fmt::format("{}: is not supported by this server", Path(name)));
    error_->code = "unsupported_parameter";
  }
}

void FieldReader::Finish() {
  for (const auto& [name, value] : object_.items()) {
    if (!error_->ok()) return;
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    Fail(name, "is not a known field" + NearestHint(name, known_));
    error_->code = "unknown_field";
  }
}

}  // namespace choir
