#include "router/content/content_filter.h"

#include <algorithm>
#include <utility>

namespace choir {
namespace {

constexpr size_t kPiece = 64 << 10;  // of a whole text: bounds the matches of one scan
constexpr size_t kCharMax = 4;       // bytes of a character

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The nearest begin of a character at or before `at`.
size_t CharBegin(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && IsContinuation(text[at])) --at;
  return at;
}

}  // namespace

ContentFilter::ContentFilter(std::shared_ptr<const ContentRules> rules)
    : rules_(std::move(rules)), hits_(rules_->rules().size()) {}

std::string ContentFilter::Push(std::string_view text) {
  if (!refused_by_.empty()) return {};
  text_ += text;
  return Advance(/*last=*/false);
}

std::string ContentFilter::Flush() { return refused_by_.empty() ? Advance(/*last=*/true) : ""; }

std::string ContentFilter::Advance(bool last) {
  // A match that begins before `certain` ends within the text, and so does the character behind it.
  const size_t hold = rules_->longest() + kCharMax;
  const size_t certain = last                  ? text_.size()
                         : text_.size() > hold ? CharBegin(text_, text_.size() - hold)
                                               : 0;
  if (certain <= done_ && !last) return {};
  std::vector<ContentMatch> matches = rules_->Scan(text_);
  std::sort(matches.begin(), matches.end(), Before);
  std::string out;
  for (const ContentMatch& match : matches) {
    if (match.begin >= certain) break;
    if (match.end <= done_) continue;
    const ContentRule& rule = rules_->rules()[match.rule];
    if (match.begin >= done_) {
      out.append(text_, done_, match.begin - done_);
      ++hits_[match.rule];
    }
    if (rule.action == ContentAction::kRefuse) {
      refused_by_ = rule.name;
      text_.clear();
      return out;
    }
    // One that overlaps the last one belongs to its replacement.
    if (match.begin >= done_) out += rule.replacement;
    Record(match);
    done_ = match.end;
  }
  if (done_ < certain) {
    out.append(text_, done_, certain - done_);
    done_ = certain;
  }
  // What a match that ends behind `done_` may begin with, and the character that a \b looks at.
  if (done_ > hold) {
    const size_t begin = CharBegin(text_, done_ - hold);
    text_.erase(0, begin);
    done_ -= begin;
    dropped_ += begin;
  }
  return out;
}

void ContentFilter::Record(const ContentMatch& match) {
  if (replaced_ == nullptr) return;
  if (match.begin < done_ && !replaced_->empty()) {
    replaced_->back().end = dropped_ + match.end;
  } else {
    replaced_->push_back({dropped_ + match.begin, dropped_ + match.end, match.rule});
  }
}

void AddHits(const std::string& rule, uint32_t count, std::vector<RuleHits>* hits) {
  const auto it = std::find_if(hits->begin(), hits->end(),
                               [&](const RuleHits& known) { return known.rule == rule; });
  if (it == hits->end()) {
    hits->push_back({rule, count});
  } else {
    it->count += count;
  }
}

void AddHits(const ContentFilter& filter, std::vector<RuleHits>* hits) {
  for (size_t i = 0; i < filter.hits().size(); ++i) {
    if (filter.hits()[i] == 0) continue;
    AddHits(filter.rules().rules()[i].name, filter.hits()[i], hits);
  }
}

std::string ApplyRules(std::string_view text, ContentFilter* filter) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at + kPiece >= text.size() ? text.size() : CharBegin(text, at + kPiece);
    out += filter->Push(text.substr(at, end - at));
    at = end;
  }
  return out + filter->Flush();
}

}  // namespace choir
