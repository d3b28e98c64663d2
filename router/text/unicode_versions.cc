#include "router/text/unicode_versions.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace choir::unicode {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

struct Later {
  Range range;
  std::string_view category;
  std::string_view script;   // empty: one that PCRE2 has no name for
  std::string_view derived;  // a: Alphabetic, u: Uppercase, l: Lowercase
};

#include "router/text/unicode_versions.inc"

// REQUIRES: ascending ranges.
template <size_t N>
bool Has(const Range (&ranges)[N], char32_t c) {
  const auto* it = std::upper_bound(std::begin(ranges), std::end(ranges), c,
                                    [](char32_t v, const Range& r) { return v < r.first; });
  return it != std::begin(ranges) && c <= std::prev(it)->last;
}

bool IsMember(const Later& later, std::string_view property) {
  if (property == "Alphabetic") return later.derived.find('a') != std::string_view::npos;
  if (property == "Uppercase") return later.derived.find('u') != std::string_view::npos;
  if (property == "Lowercase") return later.derived.find('l') != std::string_view::npos;
  return later.script == property || later.category.starts_with(property);
}

}  // namespace

std::string LaterMembers(std::string_view property) {
  std::string items;
  Range run{1, 0};  // neighbours joined
  const auto flush = [&] {
    if (run.first > run.last) return;
    const auto first = static_cast<uint32_t>(run.first);
    const auto last = static_cast<uint32_t>(run.last);
    items += first == last ? fmt::format("\\x{{{:X}}}", first)
                           : fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", first, last);
  };
  for (const Later& later : kLater) {
    if (!IsMember(later, property)) continue;
    if (run.first <= run.last && run.last + 1 == later.range.first) {
      run.last = later.range.last;
      continue;
    }
    flush();
    run = later.range;
  }
  flush();
  return items;
}

bool IsLaterNumber(char32_t c) { return Has(kLaterNumbers, c); }
bool IsLaterPunctuation(char32_t c) { return Has(kNotPunctuation, c); }
bool IsUnknownToNormalizers(char32_t c) { return Has(kUnknownToNormalizer, c); }

}  // namespace choir::unicode
