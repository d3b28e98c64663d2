// Names of character classes in Oniguruma's patterns, as the inside of a set for PCRE2.
// Implementation of oniguruma.h; checked for every character against the library (all that Unicode
// 14 knows agree).
#pragma once

#include <string>
#include <string_view>

namespace choir::text::oniguruma {

inline constexpr char kSpace[] = R"(\p{White_Space})";
inline constexpr char kNoSpace[] = R"(\P{White_Space})";
// Outside of a set Oniguruma's \w also takes the six No of Latin-1.
inline constexpr char kWord[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
inline constexpr char kBareWord[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xB2\xB3\xB9\xBC-\xBE)";

inline bool IsGeneralCategory(std::string_view name) {
  static constexpr std::string_view kNames[] = {
      "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
      "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
      "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs", "Any"};
  for (const std::string_view n : kNames) {
    if (n == name) return true;
  }
  return false;
}

// POSIX-like names, as \p{Alpha} and [[:alpha:]].
inline std::string_view NamedClass(const std::string& lower) {
  if (lower == "alpha" || lower == "alphabetic") return R"(\p{Alphabetic})";
  if (lower == "digit") return R"(\p{Nd})";
  if (lower == "alnum") return R"(\p{Alphabetic}\p{Nd})";
  if (lower == "upper" || lower == "uppercase") return R"(\p{Uppercase})";
  if (lower == "lower" || lower == "lowercase") return R"(\p{Lowercase})";
  if (lower == "space" || lower == "white_space") return kSpace;
  if (lower == "word") return kWord;
  if (lower == "punct") return R"(\p{P})";
  if (lower == "cntrl") return R"(\p{Cc})";
  if (lower == "xdigit") return "0-9A-Fa-f";
  if (lower == "ascii") return R"(\x00-\x7F)";
  return {};
}

}  // namespace choir::text::oniguruma
