// Reads one JSON object of a model's config with types, ranges and refusals. The first problem is
// kept and every later call returns a harmless value, so that callers read straight through and ask
// status() once. Keys that nobody asks for are ignored. Not thread-safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

// Names a key was given over the years; the first that is present and not null counts.
using Keys = std::initializer_list<const char*>;

class ConfigReader {
 public:
  // `object` outlives the reader. `where` begins every message: "DIR/config.json".
  ConfigReader(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  const Status& status() const { return status_; }
  const std::string& where() const { return where_; }
  // Keeps the first: "WHERE: KEY: what".
  void Fail(const std::string& key, const std::string& what);
  void Adopt(const ConfigReader& inner);  // the first problem of a reader of a part
  void Check(bool good, const std::string& key, const std::string& what);

  bool Has(const char* key) const;     // present and not null
  bool IsNull(const char* key) const;  // present and null
  int64_t Int(Keys keys, int64_t min, int64_t max, std::optional<int64_t> fallback = {});
  double Real(Keys keys, double min, double max, std::optional<double> fallback = {});
  bool Bool(Keys keys, bool fallback);
  std::string Text(Keys keys, const std::string& fallback);
  std::vector<int32_t> IntOrList(const char* key);  // absent: empty
  // Lists of at most 4096; absent: empty.
  std::vector<int64_t> Ints(const char* key, int64_t min, int64_t max);
  std::vector<std::string> Texts(const char* key);
  const nlohmann::json* Object(Keys keys);  // absent or null: nullptr

  // A switch of which only some values are implemented; absent: fine.
  void OneOf(const char* key, std::initializer_list<const char*> values, const char* remedy);
  // A key that must be absent, null, false or 0.
  void Absent(const char* key, const char* why);

 private:
  const nlohmann::json* Find(Keys keys, const char** key) const;
  const nlohmann::json& List(const char* key);  // empty when absent or not a list

  const nlohmann::json& object_;
  std::string where_;
  Status status_;
};

}  // namespace choir
