// What the `tokenizers` package takes from other versions of Unicode than our libraries do: token
// ids must not depend on whose tables are newer. Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>

namespace choir::unicode {

// Members of a property (general category such as "L" or "Lu", script such as "Han", "Alphabetic",
// "Uppercase", "Lowercase") beyond Unicode 14, which PCRE2 has, as items of a PCRE2 set; empty when
// there are none.
std::string LaterMembers(std::string_view property);

bool IsLaterNumber(char32_t c);       // numeric, beyond Unicode 14
bool IsLaterPunctuation(char32_t c);  // P in our tables only

// A character that the normalizers leave alone, though it has a combining class or a decomposition.
bool IsUnknownToNormalizers(char32_t c);

}  // namespace choir::unicode
