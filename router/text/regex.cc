#define PCRE2_CODE_UNIT_WIDTH 8
#include "router/text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "router/text/oniguruma.h"
#include "router/text/unicode.h"

namespace choir::text {
namespace {

// A search starts with a small limit and is repeated with a larger one when that was too small: so
// the budget needs to be charged only for the rare searches that try often.
constexpr uint32_t kFirstLimit = 10'000;
constexpr uint64_t kBudgetBase = 20'000'000;
constexpr uint64_t kBudgetPerByte = 100;
constexpr uint32_t kDepthLimit = 100'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackMax = 1 << 20;
constexpr size_t kPatternBytesMax = 64 * 1024;

}  // namespace

struct RegexScratch::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackMax, nullptr);
  uint64_t budget = kBudgetBase;

  Impl() {
    pcre2_set_match_limit(context, kFirstLimit);
    pcre2_set_depth_limit(context, kDepthLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Impl() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {}
RegexScratch::~RegexScratch() = default;

void RegexScratch::StartText(size_t bytes) { impl_->budget = kBudgetBase + kBudgetPerByte * bytes; }

struct Regex::Impl {
  pcre2_code* code = nullptr;
  bool jit = false;
  ~Impl() { pcre2_code_free(code); }
};

Regex::~Regex() = default;

StatusOr<std::unique_ptr<Regex>> Regex::Compile(std::string_view oniguruma_pattern) {
  if (oniguruma_pattern.size() > kPatternBytesMax) {
    return InvalidArgument("regular expression: {} bytes, the limit is {}",
                           oniguruma_pattern.size(), kPatternBytesMax);
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string pattern, OnigurumaToPcre2(oniguruma_pattern));
  std::unique_ptr<Regex> regex(new Regex());
  regex->impl_ = std::make_unique<Impl>();
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  regex->impl_->code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, context);
  pcre2_compile_context_free(context);
  if (regex->impl_->code == nullptr) {
    unsigned char message[256] = "";
    pcre2_get_error_message(code, message, sizeof message);
    return InvalidArgument("regular expression: {} (near byte {} of its compiled form '{}')",
                           reinterpret_cast<const char*>(message), offset, pattern);
  }
  // Without JIT (a hardened kernel may forbid it) the interpreter does the same, slower.
  regex->impl_->jit = pcre2_jit_compile(regex->impl_->code, PCRE2_JIT_COMPLETE) == 0;
  return regex;
}

Regex::Outcome Regex::Find(std::string_view text, size_t from, RegexScratch* scratch,
                           MatchRange* match) const {
  RegexScratch::Impl& s = *scratch->impl_;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  uint64_t limit = kFirstLimit;
  bool jit = impl_->jit;
  int rc = 0;
  while (true) {
    rc = jit ? pcre2_jit_match(impl_->code, subject, text.size(), from, 0, s.data, s.context)
             : pcre2_match(impl_->code, subject, text.size(), from,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s.data, s.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && jit) {
      jit = false;
    } else if (rc == PCRE2_ERROR_MATCHLIMIT && s.budget > 0) {
      limit = std::min<uint64_t>(limit * 10, s.budget);
      s.budget -= limit;
      pcre2_set_match_limit(s.context, static_cast<uint32_t>(std::min<uint64_t>(limit, ~0u)));
    } else {
      break;
    }
  }
  if (limit != kFirstLimit) pcre2_set_match_limit(s.context, kFirstLimit);
  if (rc == PCRE2_ERROR_NOMATCH) return Outcome::kNone;
  if (rc < 0) return Outcome::kBudgetSpent;
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(s.data);
  // \K in a look-ahead may put the start behind the end.
  *match = {std::min(ends[0], ends[1]), ends[1]};
  return Outcome::kMatch;
}

StatusOr<Pattern> Pattern::FromRegex(std::string_view oniguruma_pattern) {
  Pattern pattern;
  CHOIR_ASSIGN_OR_RETURN(pattern.regex_, Regex::Compile(oniguruma_pattern));
  return pattern;
}

Pattern Pattern::FromLiteral(std::string literal) {
  Pattern pattern;
  pattern.literal_ = std::move(literal);
  return pattern;
}

Pattern Pattern::FromClass(CharClass char_class) {
  Pattern pattern;
  pattern.class_ = char_class;
  return pattern;
}

bool MatchIterator::NextRegex(MatchRange* match) {
  while (from_ <= text_.size() && !budget_spent_) {
    switch (pattern_.regex_->Find(text_, from_, scratch_, match)) {
      case Regex::Outcome::kNone:
        from_ = text_.size() + 1;
        return false;
      case Regex::Outcome::kBudgetSpent:
        budget_spent_ = true;
        return false;
      case Regex::Outcome::kMatch:
        break;
    }
    if (match->begin == match->end && match->end == last_end_) {
      if (from_ >= text_.size()) return false;
      unicode::Next(text_, &from_);
      continue;
    }
    from_ = last_end_ = match->end;
    return true;
  }
  return false;
}

bool MatchIterator::Next(MatchRange* match) {
  if (pattern_.regex_ != nullptr) return NextRegex(match);
  if (pattern_.class_ != nullptr) {
    while (from_ < text_.size()) {
      match->begin = from_;
      const char32_t c = unicode::Next(text_, &from_);
      match->end = from_;
      if (pattern_.class_(c)) return true;
    }
    return false;
  }
  if (pattern_.literal_.empty()) return false;
  match->begin = text_.find(pattern_.literal_, from_);
  if (match->begin == std::string_view::npos) {
    from_ = text_.size();
    return false;
  }
  from_ = match->end = match->begin + pattern_.literal_.size();
  return true;
}

}  // namespace choir::text
