// Reads the fields of one JSON object by name, type and range, and remembers the first error. Every
// field must be read or allowed: Finish() refuses the others by name with the nearest known one. A
// null field is as if absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gateway/api/strict_json.h"

namespace choir {

class FieldReader {
 public:
  // `path` is "" at the top, "stream_options" below. The object outlives the reader.
  FieldReader(const Json& object, std::string path, RestError* error);

  const Json* Get(const std::string& name);  // nullptr when absent or null
  const Json* Require(const std::string& name);
  std::optional<bool> Bool(const std::string& name);
  std::optional<int64_t> Int(const std::string& name, int64_t min, int64_t max);
  std::optional<double> Number(const std::string& name, double min, double max,
                               bool min_open = false);
  std::optional<std::string> String(const std::string& name, size_t bytes_max = size_t{1} << 30);
  // A string or a list of strings.
  std::vector<std::string> Strings(const std::string& name, size_t count_max);

  void Allow(const std::string& name);  // accepted and without effect
  // Refused by name unless null or equal to `harmless`.
  void Refuse(const std::string& name, const Json& harmless = nullptr);

  void Fail(const std::string& name, const std::string& message);  // "name: message"
  std::string Path(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
  }
  void Finish();

 private:
  const Json& object_;
  const std::string path_;
  RestError* const error_;
  std::vector<std::string> known_;
};

}  // namespace choir
