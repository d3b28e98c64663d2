#include "worker/model/config/config_reader.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace choir {
namespace {

constexpr size_t kShownMax = 80;  // characters of a bad value in a message
constexpr size_t kListMax = 4096;

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kShownMax) text = text.substr(0, kShownMax) + "...";
  return text;
}

// Some converters write whole numbers as 4096.0.
std::optional<int64_t> WholeNumber(const nlohmann::json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t u = value.get<uint64_t>();
    if (u > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(u);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const double d = value.get<double>();
    if (d == std::floor(d) && std::abs(d) < 9e15) return static_cast<int64_t>(d);
  }
  return std::nullopt;
}

}  // namespace

void ConfigReader::Fail(const std::string& key, const std::string& what) {
  if (status_.ok()) status_ = InvalidArgument("{}: {}: {}", where_, key, what);
}

void ConfigReader::Adopt(const ConfigReader& inner) {
  if (status_.ok()) status_ = inner.status_;
}

void ConfigReader::Check(bool good, const std::string& key, const std::string& what) {
  if (!good) Fail(key, what);
}

const nlohmann::json* ConfigReader::Find(Keys keys, const char** key) const {
  for (const char* name : keys) {
    *key = name;
    const auto it = object_.find(name);
    if (it != object_.end() && !it->is_null()) return &*it;
  }
  *key = *keys.begin();
  return nullptr;
}

bool ConfigReader::Has(const char* key) const {
  const char* unused = nullptr;
  return Find({key}, &unused) != nullptr;
}

bool ConfigReader::IsNull(const char* key) const {
  const auto it = object_.find(key);
  return it != object_.end() && it->is_null();
}

int64_t ConfigReader::Int(Keys keys, int64_t min, int64_t max, std::optional<int64_t> fallback) {
  const char* key = nullptr;
  const nlohmann::json* value = Find(keys, &key);
  if (value == nullptr) {
    if (!fallback) Fail(key, "is missing; take config.json from the model's publisher");
    return fallback.value_or(min);
  }
  const std::optional<int64_t> n = WholeNumber(*value);
  if (!n || *n < min || *n > max) {
    Fail(key, fmt::format("{} is not a whole number from {} to {}", Shown(*value), min, max));
    return fallback.value_or(min);
  }
  return *n;
}

double ConfigReader::Real(Keys keys, double min, double max, std::optional<double> fallback) {
  const char* key = nullptr;
  const nlohmann::json* value = Find(keys, &key);
  if (value == nullptr) {
    if (!fallback) Fail(key, "is missing; take config.json from the model's publisher");
    return fallback.value_or(min);
  }
  const double d = value->is_number() ? value->get<double>() : std::nan("");
  if (!(d >= min && d <= max)) {
    Fail(key, fmt::format("{} is not a number from {} to {}", Shown(*value), min, max));
    return fallback.value_or(min);
  }
  return d;
}

bool ConfigReader::Bool(Keys keys, bool fallback) {
  const char* key = nullptr;
  const nlohmann::json* value = Find(keys, &key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Fail(key, Shown(*value) + " is not true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::Text(Keys keys, const std::string& fallback) {
  const char* key = nullptr;
  const nlohmann::json* value = Find(keys, &key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    Fail(key, Shown(*value) + " is not a string");
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<int32_t> ConfigReader::IntOrList(const char* key) {
  const char* unused = nullptr;
  const nlohmann::json* value = Find({key}, &unused);
  std::vector<int32_t> out;
  if (value == nullptr) return out;
  const auto take = [&](const nlohmann::json& one) {
    const std::optional<int64_t> n = WholeNumber(one);
    if (!n || *n < 0 || *n > std::numeric_limits<int32_t>::max()) {
      Fail(key, Shown(one) + " is not a token id");
    } else {
      out.push_back(static_cast<int32_t>(*n));
    }
  };
  if (!value->is_array()) {
    take(*value);
  } else if (value->size() > 256) {
    Fail(key, "lists more than 256 ids");
  } else {
    for (const nlohmann::json& one : *value) take(one);
  }
  return out;
}

const nlohmann::json& ConfigReader::List(const char* key) {
  static const nlohmann::json empty = nlohmann::json::array();
  const char* unused = nullptr;
  const nlohmann::json* value = Find({key}, &unused);
  if (value == nullptr) return empty;
  if (value->is_array() && value->size() <= kListMax) return *value;
  Fail(key, fmt::format("{} is not a list of at most {} entries", Shown(*value), kListMax));
  return empty;
}

std::vector<int64_t> ConfigReader::Ints(const char* key, int64_t min, int64_t max) {
  std::vector<int64_t> out;
  for (const nlohmann::json& one : List(key)) {
    const std::optional<int64_t> n = WholeNumber(one);
    if (n && *n >= min && *n <= max) {
      out.push_back(*n);
    } else {
      Fail(key, fmt::format("{} is not a whole number from {} to {}", Shown(one), min, max));
    }
  }
  return out;
}

std::vector<std::string> ConfigReader::Texts(const char* key) {
  std::vector<std::string> out;
  for (const nlohmann::json& one : List(key)) {
    if (one.is_string()) {
      out.push_back(one.get<std::string>());
    } else {
      Fail(key, Shown(one) + " is not a string");
    }
  }
  return out;
}

const nlohmann::json* ConfigReader::Object(Keys keys) {
  const char* key = nullptr;
  const nlohmann::json* value = Find(keys, &key);
  if (value != nullptr && !value->is_object()) {
    Fail(key, Shown(*value) + " is not an object");
    return nullptr;
  }
  return value;
}

void ConfigReader::OneOf(const char* key, std::initializer_list<const char*> values,
                         const char* remedy) {
  const char* unused = nullptr;
  const nlohmann::json* value = Find({key}, &unused);
  if (value == nullptr) return;
  std::string known;
  for (const char* v : values) {
    if (value->is_string() && value->get_ref<const std::string&>() == v) return;
    known += (known.empty() ? "" : ", ") + std::string(v);
  }
  Fail(key, fmt::format("{} is not supported (known: {}); {}", Shown(*value), known, remedy));
}

void ConfigReader::Absent(const char* key, const char* why) {
  const char* unused = nullptr;
  const nlohmann::json* value = Find({key}, &unused);
  if (value == nullptr || *value == false || (value->is_number() && *value == 0)) return;
  Fail(key, fmt::format("{} is not supported; {}", Shown(*value), why));
}

}  // namespace choir
