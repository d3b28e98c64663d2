#include "router/core/joint_rules.h"

#include <algorithm>
#include <bit>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "router/core/protocol_words.h"
#include "router/text/unicode.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

// A character that nobody writes (of private use). Not empty, as templates ask for that.
constexpr char32_t kHidden = 0xE000;

// Goes through the texts of a request, always in the same order, and hides some: keys of objects
// and numbers, which templates show too, as well.
class TextHider {
 public:
  using Keep = std::function<bool(size_t text)>;
  explicit TextHider(Keep keep) : keep_(std::move(keep)) {}

  void Hide(ordered_json* request) {
    for (const char* field : {"messages", "tools"}) {
      if (const auto found = request->find(field); found != request->end()) HideValue(&*found);
    }
    const auto variables = request->find("kwargs");
    if (variables == request->end()) return;
    for (auto& [name, value] : variables->items()) {
      if (name != "chat_template") HideValue(&value);  // which of several templates
    }
  }
  size_t num_texts() const { return num_texts_; }

 private:
  void HideValue(ordered_json* value) {
    if (value->is_string()) {
      if (!value->get_ref<const std::string&>().empty() && !keep_(num_texts_++)) *value = Hidden();
    } else if (value->is_number()) {
      if (!keep_(num_texts_++)) *value = 0;
    } else if (value->is_array()) {
      for (ordered_json& item : *value) HideValue(&item);
    } else if (value->is_object()) {
      HideObject(value);
    }
  }
  void HideObject(ordered_json* object) {
    ordered_json out = ordered_json::object();
    for (auto& [key, item] : object->items()) {
      if (!IsProtocolWord(key, item)) HideValue(&item);
      const bool shown = IsProtocolKey(key) || keep_(num_texts_++);
      out[shown ? key : HiddenKey(num_texts_)] = std::move(item);
    }
    *object = std::move(out);
  }
  static std::string Hidden() {
    std::string text;
    unicode::Append(kHidden, &text);
    return text;
  }
  // Each another one.
  static std::string HiddenKey(size_t number) {
    constexpr size_t kPrivate = 6400;
    std::string key = Hidden();
    for (; number > 0; number /= kPrivate) {
      unicode::Append(kHidden + static_cast<char32_t>(number % kPrivate), &key);
    }
    return key;
  }

  const Keep keep_;
  size_t num_texts_ = 0;
};

// What is matched, by which rule. Of matches that begin at one place the shortest, as longer ones
// are there because of it: what a mark or another text adds at the end is no news.
using Matches = std::set<std::pair<size_t, std::string>>;

void AddMatches(const ContentRules& rules, std::string_view stretch, Matches* found) {
  const std::string safe = unicode::IsValid(stretch) ? "" : unicode::Sanitize(stretch);
  const std::string_view text = safe.empty() ? stretch : safe;
  std::map<std::pair<size_t, size_t>, size_t> ends;  // by rule and begin
  for (const ContentMatch& match : rules.Scan(text)) {
    size_t& end = ends.try_emplace({match.rule, match.begin}, match.end).first->second;
    end = std::min(end, match.end);
  }
  for (const auto& [where, end] : ends) {
    found->emplace(where.first, text.substr(where.second, end - where.second));
  }
}

// Adds those that are there with the texts that `keep` names only. What cannot be rendered so
// explains nothing.
void AddExplained(const Matches& open, ordered_json request, const RenderPrompt& render,
                  TextHider::Keep keep, Matches* explained) {
  TextHider(std::move(keep)).Hide(&request);
  const auto prompt = render(request);
  if (!prompt.ok()) return;
  for (const auto& match : open) {
    if (prompt->find(match.second) != std::string::npos) explained->insert(match);
  }
}

size_t NumTexts(ordered_json request) {
  TextHider hider([](size_t) { return true; });
  hider.Hide(&request);
  return hider.num_texts();
}

}  // namespace

const ContentRule* FindAcrossTexts(const ContentRules& rules,
                                   const std::vector<std::string_view>& stretches,
                                   const ordered_json& request, const RenderPrompt& render) {
  Matches open;
  size_t bytes = 0;
  for (const std::string_view stretch : stretches) {
    AddMatches(rules, stretch, &open);
    bytes += stretch.size();
  }
  if (open.empty()) return nullptr;
  const size_t texts = NumTexts(request);
  if (texts < 2) return nullptr;
  Matches own;
  AddExplained(
      open, request, render, [](size_t) { return false; }, &own);
  std::erase_if(open, [&own](const auto& match) { return own.contains(match); });
  // Any two texts differ in one bit of their numbers: what needs both is in neither half of the
  // texts by that bit. What needs one is in one of both halves, for every bit.
  const auto bits = static_cast<size_t>(std::bit_width(texts - 1));
  const bool affordable =
      (bytes + texts * 100) * bits * 2 <= kRenderedAgainMax && open.size() <= kMatchesLookedIntoMax;
  for (size_t bit = 0; bit < bits && !open.empty(); ++bit) {
    Matches halves;
    for (const size_t half : {0u, 1u}) {
      const auto keep = [=](size_t text) { return (text >> bit & 1) == half; };
      if (affordable) AddExplained(open, request, render, keep, &halves);
    }
    for (const auto& match : open) {
      if (!halves.contains(match)) return &rules.rules()[match.first];
    }
  }
  return nullptr;
}

}  // namespace choir
