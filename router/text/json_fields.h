// Reading published JSON with errors that name file, field and value. A JsonField is a value and
// the way to it ("tokenizer.json: model.merges[7]"); it refers to a document that must outlive it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir::text {

// InvalidArgument with the position of a mistake; `name` is what errors call the text.
StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& name);

// NotFound: "there is no directory DIR; ...".
Status RequireModelDirectory(const std::string& model_dir);

class JsonField {
 public:
  JsonField(const nlohmann::json* value, std::string path)
      : value_(value), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  bool present() const { return value_ != nullptr && !value_->is_null(); }

  // "path: problem; got VALUE (shortened)".
  Status Error(std::string_view problem) const;

  // A member (not present() when missing or null) or an element. REQUIRES: object; array and in
  // range.
  JsonField operator[](const char* key) const;
  JsonField At(size_t index) const;  // REQUIRES: an array that long
  size_t size() const { return value_->size(); }

  Status RequireObject() const;
  Status RequireArray() const;
  StatusOr<std::string> String() const;
  StatusOr<char32_t> Character() const;  // a string of exactly one
  // The fallback when not present; an error when there is none.
  StatusOr<bool> Bool(std::optional<bool> fallback) const;
  StatusOr<int64_t> Integer(std::optional<int64_t> fallback, int64_t min, int64_t max) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace choir::text
