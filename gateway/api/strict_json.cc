#include "gateway/api/strict_json.h"

#include <fmt/format.h>

#include <limits>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace choir {
namespace {

// Builds the value while nlohmann's parser reads; keeps what must be refused.
class Builder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  Builder(std::string_view text, int depth_max, Json* root)
      : text_(text), depth_max_(depth_max), root_(root) {}

  bool null() { return Put(nullptr); }
  bool boolean(bool v) { return Put(v); }
  bool number_integer(number_integer_t v) { return Put(v); }
  bool number_unsigned(number_unsigned_t v) { return Put(v); }
  bool number_float(number_float_t v, const string_t&) { return Put(v); }
  bool string(string_t& v) { return Put(std::move(v)); }
  bool binary(binary_t&) { return false; }
  bool start_object(size_t) { return Open(Json::object()); }
  bool start_array(size_t) { return Open(Json::array()); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }
  bool key(string_t& name) {
    if (!stack_.back().keys.insert(name).second) {
      error = InvalidValue(name, fmt::format("the key '{}' is given twice", name));
      return false;
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception& e) {
    if (e.id == 406) {
      constexpr double kMost = std::numeric_limits<double>::max();
      error = InvalidValue(
          Field(),
          fmt::format("a number is out of range -{0:.1e}..{0:.1e} (near byte {1})", kMost, at));
    } else {
      error = InvalidValue("", fmt::format("{} (near byte {})", Reason(at, e), at));
    }
    return false;
  }

  RestError error;

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  // What is wrong, as far as the library tells: only its messages distinguish the cases.
  std::string Reason(size_t at, const nlohmann::detail::exception& e) const {
    // Its message ends in what was read, which is the client's text.
    std::string_view says = e.what();
    says = says.substr(0, says.find("; last read"));
    const char* why = "syntax error";
    if (says.find("surrogate") != says.npos) {
      why = "a string has a lone surrogate";
    } else if (says.find("UTF-8") != says.npos) {
      why = "a string is not valid UTF-8";
    } else if (IsNotANumber(at)) {
      why = "NaN and Infinity are not JSON numbers";
    } else if (at > text_.size()) {
      why = "it ends too early";
    }
    return std::string("the body is not valid JSON: ") + why;
  }
  // Whether the first wrong byte, the `at`-th, belongs to one of the spellings of other formats.
  bool IsNotANumber(size_t at) const {
    if (at == 0 || at > text_.size()) return false;
    const std::string_view rest = text_.substr(at - 1);
    return rest.starts_with("NaN") || rest.starts_with("Inf") || rest.starts_with("inf") ||
           (at > 1 && text_.substr(at - 2).starts_with("nan"));
  }

  // Of the value that is being read; empty: an item of an array.
  std::string Field() const {
    return !stack_.empty() && stack_.back().value->is_object() ? key_ : "";
  }

  Json* Slot() {
    if (stack_.empty()) return root_;
    Json& parent = *stack_.back().value;
    if (parent.is_object()) {
      // Appending to the vector below, since ordered_map searches all keys first: 10^6 keys would
      // take hours.
      auto& pairs = static_cast<Json::object_t::Container&>(parent.get_ref<Json::object_t&>());
      pairs.emplace_back(std::move(key_), nullptr);
      return &pairs.back().second;
    }
    parent.push_back(nullptr);
    return &parent.back();
  }
  bool Close() {
    stack_.pop_back();
    return true;
  }
  template <typename T>
  bool Put(T&& value) {
    *Slot() = std::forward<T>(value);
    return true;
  }
  bool Open(Json empty) {
    if (static_cast<int>(stack_.size()) >= depth_max_) {
      error = InvalidValue("", fmt::format("the JSON is nested deeper than {} levels", depth_max_));
      return false;
    }
    Json* slot = Slot();
    *slot = std::move(empty);
    stack_.push_back({slot, {}});
    return true;
  }

  const std::string_view text_;
  const int depth_max_;
  Json* const root_;
  // Pointers stay valid: only the innermost container grows, and its parents do not move meanwhile.
  std::vector<Level> stack_;
  std::string key_;
};

}  // namespace

RestError ParseStrictJson(std::string_view text, int depth_max, Json* out) {
  Builder builder(text, depth_max, out);
  *out = nullptr;
  // nlohmann takes it for the end of the text.
  if (const size_t at = text.find('\0'); at != text.npos) {
    return InvalidValue(
        "", fmt::format("the body is not valid JSON: a NUL byte (near byte {})", at + 1));
  }
  if (Json::sax_parse(text, &builder)) return {};
  if (builder.error.ok()) builder.error = InvalidValue("", "the body is not valid JSON");
  return builder.error;
}

}  // namespace choir
