#include "router/core/joint_rules.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "router/core/text_hider.h"
#include "router/text/unicode.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

// Bytes of the prompt.
struct Place {
  size_t begin = 0;
  size_t end = 0;
};

// The ends of matches that begin at one place. The shortest is judged, as longer ones are there
// because of it: what a mark or another text adds at the end is no news.
struct Ends {
  size_t shortest = 0;
  size_t longest = 0;
};
using Matches = std::map<std::pair<size_t, size_t>, Ends>;  // by rule and begin

Matches FindMatches(const ContentRules& rules, std::string_view stretch, size_t offset) {
  const bool valid = unicode::IsValid(stretch);
  const std::string safe = valid ? "" : unicode::Sanitize(stretch);
  Matches found;
  for (const ContentMatch& match : rules.Scan(valid ? stretch : safe)) {
    // Where it is in bytes that are no characters cannot be told.
    const size_t begin = offset + (valid ? match.begin : 0);
    const size_t end = offset + (valid ? match.end : stretch.size());
    Ends& ends = found.try_emplace({match.rule, begin}, Ends{end, end}).first->second;
    ends = {std::min(ends.shortest, end), std::max(ends.longest, end)};
  }
  return found;
}

// What of `prompt` is another in `changed`. Where a text left it may be unclear which of two equal
// stretches that were side by side is gone; then it is both.
Place Difference(std::string_view prompt, std::string_view changed) {
  const auto same = [](auto a, auto a_end, auto b, auto b_end) {
    return static_cast<size_t>(std::mismatch(a, a_end, b, b_end).first - a);
  };
  const size_t head = same(prompt.begin(), prompt.end(), changed.begin(), changed.end());
  const size_t tail = same(prompt.rbegin(), prompt.rend(), changed.rbegin(), changed.rend());
  const size_t begin = std::min(head, changed.size() - tail);
  const size_t end = prompt.size() - std::min(tail, changed.size() - head);
  return {std::min(begin, end), std::max(begin, end)};
}

// Which texts of a request have a part in a place of its prompt: the template is rendered with some
// of the texts hidden. Where putting them back gives the prompt it is known what they are; else
// what stays as it was before the first change and after the last is not theirs, and halving the
// texts finds those of one place.
class TextPlaces {
 public:
  TextPlaces(std::string_view prompt, const ordered_json& request, const RenderPrompt& render)
      : prompt_(prompt), request_(request), render_(render), texts_(FindTexts(request)) {
    order_.resize(texts_.size());
    std::iota(order_.begin(), order_.end(), 0);
    known_ = std::none_of(texts_.begin(), texts_.end(), HasMark) &&
             order_.size() <= kHiddenTextsMax && !HasMark(prompt);
    if (!known_ || order_.size() < 2) return;
    // Those that are not shown come first: together they mostly change nothing.
    const std::string& all = AloneWith(order_.size());
    if (all.empty()) return;
    const std::vector<bool> shown = HiddenTextsIn(all, order_.size());
    std::stable_partition(order_.begin(), order_.end(), [&](size_t text) { return !shown[text]; });
    places_[{0, order_.size()}] = PlacesIn(all, 0, order_.size());
  }

  size_t num_texts() const { return order_.size(); }
  // The texts with a part in the place, two at most.
  std::set<size_t> PartsOf(const Place& place) {
    std::set<size_t> parts;
    AddParts(place, 0, order_.size(), &parts);
    return parts;
  }
  // Also true when it cannot be told. One text at most has a part in the place, and the template
  // says the same with that one alone: asked too, as a text that is gone when it is hidden, not
  // replaced, may leave a place that only looks as it was.
  bool IsOfSeveral(const Place& place) {
    const std::set<size_t> parts = PartsOf(place);
    if (parts.size() > 1) return true;
    const std::string_view match = prompt_.substr(place.begin, place.end - place.begin);
    return AloneWith(parts.empty() ? order_.size() : *parts.begin()).find(match) ==
           std::string::npos;
  }

 private:
  // Where texts order_[from, to) are.
  struct Places {
    std::optional<std::vector<ShownText>> shown;  // each of them
    Place all;                                    // else what holds all of their bytes
  };

  // Adds those of order_[from, to) with a part in the place, until there are two.
  void AddParts(const Place& place, size_t from, size_t to, std::set<size_t>* parts) {
    const Places& theirs = PlacesOf(from, to);
    if (theirs.shown) {
      auto shown = std::partition_point(theirs.shown->begin(), theirs.shown->end(),
                                        [&](const auto& s) { return s.end <= place.begin; });
      for (; shown != theirs.shown->end() && shown->begin < place.end; ++shown) {
        parts->insert(shown->text);
      }
      return;
    }
    if (std::max(place.begin, theirs.all.begin) >= std::min(place.end, theirs.all.end)) return;
    if (to - from == 1) {
      parts->insert(order_[from]);
      return;
    }
    const size_t middle = from + (to - from) / 2;
    AddParts(place, from, middle, parts);
    if (parts->size() < 2) AddParts(place, middle, to, parts);
  }
  const Places& PlacesOf(size_t from, size_t to) {
    const auto [found, is_new] = places_.try_emplace({from, to});
    if (is_new) {
      std::vector<bool> hidden(order_.size());
      for (size_t i = from; i < to; ++i) hidden[order_[i]] = true;
      const auto changed = Render(hidden);
      found->second =
          changed.ok() ? PlacesIn(*changed, from, to) : Places{.all = {0, prompt_.size()}};
    }
    return found->second;
  }
  // `changed` is the prompt with those texts hidden. Of several each has to be seen: one that is
  // gone may move what is behind it, and what comes then may look like it.
  Places PlacesIn(std::string_view changed, size_t from, size_t to) const {
    if (auto shown = FindShown(prompt_, changed, texts_)) return {.shown = std::move(shown)};
    if (to - from > 1) {
      const std::vector<bool> seen = HiddenTextsIn(changed, order_.size());
      for (size_t i = from; i < to; ++i) {
        if (!seen[order_[i]]) return {.all = {0, prompt_.size()}};
      }
    }
    return {.all = Difference(prompt_, changed)};
  }
  // The prompt with one text only; without any when it is their number. Empty: it cannot be told.
  const std::string& AloneWith(size_t kept) {
    const auto [found, is_new] = alone_.try_emplace(kept);
    if (is_new) {
      std::vector<bool> hidden(order_.size(), true);
      if (kept < hidden.size()) hidden[kept] = false;
      if (auto alone = Render(hidden); alone.ok()) found->second = *std::move(alone);
    }
    return found->second;
  }
  StatusOr<std::string> Render(const std::vector<bool>& hidden) {
    rendered_ += prompt_.size() + order_.size() * kHiddenBytes;
    if (!known_ || rendered_ > kRenderedAgainMax) return InvalidArgument("it cannot be told");
    ordered_json request = request_;
    HideTexts(hidden, &request);
    return render_(request);
  }

  const std::string_view prompt_;
  const ordered_json& request_;
  const RenderPrompt& render_;
  const std::vector<std::string> texts_;
  std::vector<size_t> order_;
  bool known_ = false;
  size_t rendered_ = 0;
  std::map<std::pair<size_t, size_t>, Places> places_;  // of ranges of order_
  std::map<size_t, std::string> alone_;                 // by the kept text
};

// The first rule with a match of several texts in a stretch of the prompt; null: none.
const ContentRule* FindInStretch(const ContentRules& rules, std::string_view prompt,
                                 const Place& stretch, Matches matches, TextPlaces* places) {
  std::set<size_t> scanned;  // from where
  std::vector<size_t> next;
  while (true) {
    for (const auto& [match, ends] : matches) {
      const auto [rule, begin] = match;
      if (places->IsOfSeveral({begin, ends.shortest})) return &rules.rules()[rule];
      if (ends.longest == ends.shortest) continue;
      if (places->PartsOf({begin, ends.longest}).size() < 2) continue;
      // Of matches with one end only the leftmost is known: another one may begin behind the words
      // that explain it.
      size_t behind = begin;
      unicode::Next(prompt, &behind);
      if (!scanned.insert(behind).second) continue;
      if (scanned.size() > kScannedAgainMax) return &rules.rules()[rule];
      next.push_back(behind);
    }
    if (next.empty()) return nullptr;
    const size_t begin = next.back();
    next.pop_back();
    // Any match that begins in the longest one, and what follows it.
    size_t end = std::min(stretch.end, begin + 2 * kContentMatchMax + 4);
    while (end < stretch.end && (prompt[end] & 0xC0) == 0x80) ++end;
    matches = FindMatches(rules, prompt.substr(begin, end - begin), begin);
  }
}

}  // namespace

const ContentRule* FindAcrossTexts(const ContentRules& rules, std::string_view prompt,
                                   const std::vector<std::string_view>& stretches,
                                   const ordered_json& request, const RenderPrompt& render) {
  std::optional<TextPlaces> places;
  for (const std::string_view stretch : stretches) {
    const auto begin = static_cast<size_t>(stretch.data() - prompt.data());
    Matches matches = FindMatches(rules, stretch, begin);
    if (matches.empty()) continue;
    if (!places) places.emplace(prompt, request, render);
    if (places->num_texts() < 2) return nullptr;
    if (const ContentRule* rule = FindInStretch(rules, prompt, {begin, begin + stretch.size()},
                                                std::move(matches), &*places)) {
      return rule;
    }
  }
  return nullptr;
}

}  // namespace choir
