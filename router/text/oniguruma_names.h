// Names of character classes in Oniguruma's patterns, as the inside of a set for PCRE2.
// Implementation of oniguruma.h; checked for every character against the library: all of its
// Unicode 16 agree, but for what is unassigned (\p{C}, \p{Cn}) and negations inside of a set.
#pragma once

#include <string>
#include <string_view>

namespace choir::text::oniguruma {

inline constexpr char kSpace[] = R"(\p{White_Space})";
inline constexpr char kNoSpace[] = R"(\P{White_Space})";

std::string Digit();
std::string Word();
// Outside of a set Oniguruma's \w also takes the six No of Latin-1.
std::string BareWord();

// POSIX-like names in lower case, as \p{Alpha} and [[:alpha:]]; empty: not one of them.
std::string NamedClass(std::string_view lower);

// \p{NAME} of a general category or a script; no such script is an error when it is compiled.
std::string Property(const std::string& name);
// The same negated, within a set.
std::string NegatedProperty(const std::string& name);

}  // namespace choir::text::oniguruma
