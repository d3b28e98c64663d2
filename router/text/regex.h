// Patterns of tokenizer.json: a literal, a regular expression, or a class of characters. Immutable,
// any thread; what a search writes is in a RegexScratch, one for each thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir::text {

// Memory of searches and the budget of one Encode. One thread.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

  // Before a text of that many bytes: its searches may try so often to match, all together.
  void StartText(size_t bytes);

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct MatchRange {
  size_t begin = 0;
  size_t end = 0;
};

class Regex {
 public:
  // InvalidArgument says where and why.
  static StatusOr<std::unique_ptr<Regex>> Compile(std::string_view oniguruma_pattern);
  ~Regex();

  enum class Outcome { kMatch, kNone, kBudgetSpent };
  // First match at or behind `from`. REQUIRES: well-formed text, `from` at a character.
  Outcome Find(std::string_view text, size_t from, RegexScratch* scratch, MatchRange* match) const;

 private:
  Regex() = default;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Pattern {
 public:
  using CharClass = bool (*)(char32_t);

  static StatusOr<Pattern> FromRegex(std::string_view oniguruma_pattern);
  static Pattern FromLiteral(std::string literal);
  static Pattern FromClass(CharClass char_class);  // every character of it is a match of its own

  bool is_literal() const { return regex_ == nullptr && class_ == nullptr; }
  const std::string& literal() const { return literal_; }

 private:
  friend class MatchIterator;
  std::shared_ptr<const Regex> regex_;
  CharClass class_ = nullptr;
  std::string literal_;
};

// The matches in `text`, left to right, without overlap. An empty match right behind a match is
// passed over, as Oniguruma's find_iter does.
class MatchIterator {
 public:
  MatchIterator(const Pattern& pattern, std::string_view text, RegexScratch* scratch)
      : pattern_(pattern), text_(text), scratch_(scratch) {}

  bool Next(MatchRange* match);
  bool budget_spent() const { return budget_spent_; }  // Next gave false for this reason

 private:
  bool NextRegex(MatchRange* match);

  const Pattern& pattern_;
  std::string_view text_;
  RegexScratch* scratch_;
  size_t from_ = 0;
  size_t last_end_ = std::string_view::npos;
  bool budget_spent_ = false;
};

}  // namespace choir::text
