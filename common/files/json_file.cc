#include "common/files/json_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/files/read_file.h"

namespace choir {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 32;

// Builds the value while it is parsed and stops at the first thing that is not wanted, so that a
// hostile file costs neither time nor memory.
class StrictBuilder final : public nlohmann::json_sax<json> {
 public:
  StrictBuilder(std::string_view text, const std::string& file, size_t values_max)
      : text_(text), file_(file), values_max_(values_max) {}
  json TakeRoot() { return std::move(root_); }
  const Status& status() const { return status_; }

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool v) override { return Add(v) != nullptr; }
  bool number_integer(number_integer_t v) override { return Add(v) != nullptr; }
  bool number_unsigned(number_unsigned_t v) override { return Add(v) != nullptr; }
  bool number_float(number_float_t v, const string_t&) override { return Add(v) != nullptr; }
  bool string(string_t& v) override { return Add(std::move(v)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    const auto [member, added] = open_.back()->emplace(std::move(name), nullptr);
    member_ = &*member;
    if (added) return true;
    const std::string& key = member.key();
    return Refuse(fmt::format("{}: the key appears twice in one object; remove one",
                              key.empty() ? "\"\"" : key.substr(0, 128)));
  }
  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    const std::string_view read = text_.substr(0, position);
    const size_t line_begin = read.substr(0, read.empty() ? 0 : read.size() - 1).rfind('\n') + 1;
    return Refuse(fmt::format(
        "JSON: malformed at line {}, column {}; the file may be cut or damaged, fetch it again",
        1 + std::count(read.begin(), read.begin() + static_cast<ptrdiff_t>(line_begin), '\n'),
        read.size() - line_begin));
  }

 private:
  bool Refuse(const std::string& what) {
    status_ = InvalidArgument("{}: {}", file_, what);
    return false;
  }
  json* Add(json value) {
    if (++values_ > values_max_) {
      Refuse(fmt::format("JSON: more than {} values; not a model's file", values_max_));
      return nullptr;
    }
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array()) return &open_.back()->emplace_back(std::move(value));
    return &(*member_ = std::move(value));
  }
  bool Open(json empty) {
    if (open_.size() >= kMaxDepth) {
      return Refuse(fmt::format("JSON: nested deeper than {}; not a model's file", kMaxDepth));
    }
    json* added = Add(std::move(empty));
    if (added != nullptr) open_.push_back(added);
    return added != nullptr;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  const std::string_view text_;
  const std::string& file_;
  Status status_;
  json root_;
  std::vector<json*> open_;  // a parent does not grow while its last child is open
  json* member_ = nullptr;   // of the key that was read last
  size_t values_ = 0;
  const size_t values_max_;
};

}  // namespace

StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& file,
                                   const JsonLimits& limits) {
  StrictBuilder builder(text, file, limits.values_max);
  if (json::sax_parse(text, &builder)) return builder.TakeRoot();
  return builder.status();
}

StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, const JsonLimits& limits) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, limits.bytes_max));
  CHOIR_ASSIGN_OR_RETURN(nlohmann::json value, ParseJson(text, path, limits));
  if (!value.is_object()) {
    return InvalidArgument("{}: JSON: must be an object at the top; fetch the file again", path);
  }
  return value;
}

StatusOr<nlohmann::json> ReadJsonObjectIfThere(const std::string& path, const JsonLimits& limits) {
  if (!IsThere(path)) return nlohmann::json();
  return ReadJsonObject(path, limits);
}

}  // namespace choir
