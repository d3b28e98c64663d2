// Applies content rules to text that comes in pieces. The outcome does not depend on how the text
// is cut: what could still become part of a match is held back, which is never more than the
// longest possible match and a character on each side. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "router/content/content_rules.h"

namespace choir {

class ContentFilter {
 public:
  explicit ContentFilter(std::shared_ptr<const ContentRules> rules);

  // Each returns what is certain now. After a refusal both return nothing.
  // REQUIRES: pieces of whole characters.
  std::string Push(std::string_view text);
  std::string Flush();  // the text is over

  // The name of the refusing rule that matched; empty: none did.
  const std::string& refused_by() const { return refused_by_; }
  // How often each rule was applied, by its index.
  const std::vector<uint32_t>& hits() const { return hits_; }
  const ContentRules& rules() const { return *rules_; }
  // From now on the places that were replaced are added there, in bytes of the whole text pushed.
  void RecordTo(std::vector<ContentMatch>* replaced) { replaced_ = replaced; }

 private:
  std::string Advance(bool last);
  void Record(const ContentMatch& match);

  const std::shared_ptr<const ContentRules> rules_;
  std::string text_;    // from a little before what is held back
  size_t done_ = 0;     // bytes of `text_` whose outcome was returned
  size_t dropped_ = 0;  // bytes of the whole text before `text_`
  std::vector<ContentMatch>* replaced_ = nullptr;
  std::string refused_by_;
  std::vector<uint32_t> hits_;
};

struct RuleHits {
  std::string rule;
  uint32_t count = 0;
};
// Adds them, one entry a rule.
void AddHits(const std::string& rule, uint32_t count, std::vector<RuleHits>* hits);
void AddHits(const ContentFilter& filter, std::vector<RuleHits>* hits);

// A whole text at once.
std::string ApplyRules(std::string_view text, ContentFilter* filter);

}  // namespace choir
