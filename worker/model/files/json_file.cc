#include "worker/model/files/json_file.h"

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "worker/model/files/mapped_file.h"

namespace choir {
namespace {

constexpr int kMaxDepth = 32;

// Before parsing, so that a file of a million brackets costs no memory.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// Sees every key once, in order; remembers the first that its object already has.
class DuplicateKeyFinder {
 public:
  bool operator()(int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) {
      open_.emplace_back();
    } else if (event == Event::object_end) {
      open_.pop_back();
    } else if (event == Event::key && duplicate_.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(key).second) duplicate_ = key.empty() ? "\"\"" : key;
    }
    return true;
  }
  const std::string& duplicate() const { return duplicate_; }

 private:
  std::vector<std::set<std::string>> open_;
  std::string duplicate_;
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
  if (TooDeep(text)) {
    return InvalidArgument("{}: JSON: nested deeper than {}; not a model's file", file, kMaxDepth);
  }
  DuplicateKeyFinder finder;
  try {
    nlohmann::json value = nlohmann::json::parse(text, std::ref(finder));
    if (!finder.duplicate().empty()) {
      return InvalidArgument("{}: {}: the key appears twice in one object; remove one", file,
                             finder.duplicate());
    }
    return value;
  } catch (const nlohmann::json::parse_error& e) {
    return InvalidArgument(
        "{}: JSON: malformed near byte {}; the file may be cut or damaged, fetch "
        "it again",
        file, e.byte);
  } catch (const nlohmann::json::exception&) {
    return InvalidArgument("{}: JSON: a number is out of range or text is not UTF-8", file);
  }
}

StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t max_bytes) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, max_bytes));
  CHOIR_ASSIGN_OR_RETURN(nlohmann::json value, ParseJson(text, path));
  if (!value.is_object()) return InvalidArgument("{}: JSON: must be an object at the top", path);
  return value;
}

}  // namespace choir
