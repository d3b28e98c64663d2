#include "worker/model/files/json_file.h"

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "worker/model/files/mapped_file.h"

namespace choir {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxValues = 2'000'000;  // the largest published headers hold half as many

// Builds the value while it is parsed and stops at the first thing that is not wanted, so that a
// hostile file costs neither time nor memory.
class StrictBuilder final : public nlohmann::json_sax<json> {
 public:
  explicit StrictBuilder(const std::string& file) : file_(file) {}
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
    if (open_.back()->contains(name)) {
      return Refuse(fmt::format("{}: the key appears twice in one object; remove one",
                                name.empty() ? "\"\"" : name.substr(0, 128)));
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    return Refuse(
        fmt::format("JSON: malformed near byte {}; the file may be cut or damaged, fetch it "
                    "again",
                    position));
  }

 private:
  bool Refuse(const std::string& what) {
    status_ = InvalidArgument("{}: {}", file_, what);
    return false;
  }
  json* Add(json value) {
    if (++values_ > kMaxValues) {
      Refuse(fmt::format("JSON: more than {} values; not a model's file", kMaxValues));
      return nullptr;
    }
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array()) return &open_.back()->emplace_back(std::move(value));
    return &((*open_.back())[key_] = std::move(value));
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

  const std::string& file_;
  Status status_;
  json root_;
  std::vector<json*> open_;  // a parent does not grow while its last child is open
  std::string key_;
  size_t values_ = 0;
};

}  // namespace

StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  CHOIR_ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  if (file->bytes().size() > max_bytes) {
    return InvalidArgument("{}: size: {} bytes are more than the {} a file of this kind may have",
                           path, file->bytes().size(), max_bytes);
  }
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& file) {
  StrictBuilder builder(file);
  if (json::sax_parse(text, &builder)) return builder.TakeRoot();
  return builder.status();
}

StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t max_bytes) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, max_bytes));
  CHOIR_ASSIGN_OR_RETURN(nlohmann::json value, ParseJson(text, path));
  if (!value.is_object()) return InvalidArgument("{}: JSON: must be an object at the top", path);
  return value;
}

}  // namespace choir
