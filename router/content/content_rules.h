// Content rules: what must not be said to the model, or by it. A rule is a regular expression (of
// vectorscan, PCRE's syntax without back-references and look-around) and what is done with its
// matches. The leftmost match counts, of several the longest, then the first rule's; matches that
// overlap it are replaced together with it. A rule's
// matches are bounded in length, so that streamed text need not be held back longer than that.
// Immutable; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

struct hs_database;

namespace choir {

enum class ContentAction {
  kRedact,  // the match is replaced
  kRefuse,  // input: the request is refused; output: the answer ends before the match
};

struct ContentRule {
  std::string name;     // [A-Za-z0-9._-], 1..64; in errors and in the audit log
  std::string pattern;  // UTF-8
  std::string replacement = "[REDACTED]";
  ContentAction action = ContentAction::kRedact;
  bool ignore_case = false;
};

// A match may have so many bytes, which is what a stream is held back by at most.
inline constexpr size_t kContentMatchMax = 4096;
inline constexpr size_t kContentRulesMax = 1000;

struct ContentMatch {
  size_t begin = 0;  // bytes
  size_t end = 0;
  size_t rule = 0;  // its index
};

// Leftmost first, of them the longest, of them the first rule's: the one that counts.
inline bool Before(const ContentMatch& a, const ContentMatch& b) {
  if (a.begin != b.begin) return a.begin < b.begin;
  if (a.end != b.end) return a.end > b.end;
  return a.rule < b.rule;
}

class ContentRules {
 public:
  // InvalidArgument names the rule and says what is wrong with it: no expression, one that matches
  // nothing or without bound, too large.
  static StatusOr<std::shared_ptr<const ContentRules>> Compile(std::vector<ContentRule> rules);
  ~ContentRules();
  ContentRules(const ContentRules&) = delete;
  ContentRules& operator=(const ContentRules&) = delete;

  // All matches, overlapping ones too: for each rule and end the leftmost begin.
  // REQUIRES: well-formed UTF-8.
  std::vector<ContentMatch> Scan(std::string_view text) const;

  const std::vector<ContentRule>& rules() const { return rules_; }
  // Bytes of the longest possible match.
  size_t longest() const { return longest_; }

 private:
  explicit ContentRules(std::vector<ContentRule> rules) : rules_(std::move(rules)) {}

  const std::vector<ContentRule> rules_;
  size_t longest_ = 0;
  hs_database* database_ = nullptr;
};

}  // namespace choir
