#include "router/core/text_rules.h"

#include <algorithm>
#include <string_view>

namespace choir {
namespace {

// Parts as one text, and where in it each begins. All places below are in the text that has nothing
// between its parts.
struct Joined {
  std::vector<std::string_view> parts;
  std::vector<size_t> begins;

  explicit Joined(const std::vector<std::string*>& texts) {
    size_t at = 0;
    for (const std::string* text : texts) {
      parts.emplace_back(*text);
      begins.push_back(at);
      at += text->size();
    }
  }
  std::string With(std::string_view between) const {
    std::string text;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (i > 0) text += between;
      text += parts[i];
    }
    return text;
  }
  // Of a place in With(between).
  size_t PlaceOf(size_t at, size_t between) const {
    size_t low = 0, high = parts.size();  // the last part that begins at or before it
    while (high - low > 1) {
      const size_t middle = (low + high) / 2;
      (begins[middle] + middle * between <= at ? low : high) = middle;
    }
    return begins[low] + std::min(at - begins[low] - low * between, parts[low].size());
  }
};

// Leftmost first, each once; what overlaps belongs to the one before it.
void Unite(std::vector<ContentMatch>* matches) {
  std::sort(matches->begin(), matches->end(), Before);
  std::vector<ContentMatch> united;
  for (const ContentMatch& match : *matches) {
    if (match.begin == match.end) continue;  // what only stood between two parts
    if (!united.empty() && match.begin < united.back().end) {
      united.back().end = std::max(united.back().end, match.end);
    } else {
      united.push_back(match);
    }
  }
  *matches = std::move(united);
}

}  // namespace

void TextRules::Apply(std::string* text) {
  ContentFilter filter(rules_);
  std::string out = ApplyRules(*text, &filter);
  AddHits(filter, hits_);
  if (refused_by_.empty()) refused_by_ = filter.refused_by();
  *text = std::move(out);
}

void TextRules::ApplyToParts(const std::vector<std::string*>& parts) {
  if (parts.empty()) return;
  if (parts.size() == 1) return Apply(parts[0]);
  const Joined joined(parts);
  std::vector<ContentMatch> found;
  const auto read = [&](const std::string& text, auto place_of) {
    std::vector<ContentMatch> replaced;
    ContentFilter filter(rules_);
    filter.RecordTo(&replaced);
    (void)ApplyRules(text, &filter);
    if (!filter.refused_by().empty()) {
      AddHits(filter, hits_);
      if (refused_by_.empty()) refused_by_ = filter.refused_by();
    }
    for (const ContentMatch& match : replaced) {
      found.push_back({place_of(match.begin), place_of(match.end), match.rule});
    }
    return filter.refused_by().empty();
  };
  for (const std::string between : {"", "\n"}) {
    const auto place_of = [&](size_t at) { return joined.PlaceOf(at, between.size()); };
    if (!read(joined.With(between), place_of)) return;
  }
  for (size_t i = 0; i < parts.size(); ++i) {  // as a rule may look at a text's begin or end
    if (!read(*parts[i], [&](size_t at) { return joined.begins[i] + at; })) return;
  }
  Unite(&found);
  auto match = found.begin();
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string_view part = joined.parts[i];
    const size_t begin = joined.begins[i], end = begin + part.size();
    size_t at = begin;
    std::string out;
    while (match != found.end() && match->begin < end) {
      const ContentRule& rule = rules_->rules()[match->rule];
      if (match->begin >= begin) {
        out.append(part, at - begin, match->begin - at);
        out += rule.replacement;
        AddHits(rule.name, 1, hits_);
      }
      at = std::min(match->end, end);
      if (match->end > end) break;  // the next part has the rest
      ++match;
    }
    out.append(part, at - begin);
    *parts[i] = std::move(out);
  }
}

}  // namespace choir
