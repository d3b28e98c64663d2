// Strings as Python sees them: valid UTF-8 text addressed by code point, with Python's notions of
// white space, case, printable. Pure functions; every string given must be valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace choir::tmpl {

bool IsValidUtf8(std::string_view text);
// The code point that starts at byte `pos`; moves pos past it.
uint32_t NextChar(std::string_view text, size_t* pos);
// Byte where the code point before `pos` starts.
size_t PreviousChar(std::string_view text, size_t pos);
void AppendChar(std::string* out, uint32_t c);
size_t CountChars(std::string_view text);
// Byte offset of the code point with that index (text.size() when past the end).
size_t ByteOffset(std::string_view text, size_t char_index);

bool IsSpace(uint32_t c);      // str.isspace
bool IsAlpha(uint32_t c);      // str.isalpha
bool IsDecimal(uint32_t c);    // str.isdecimal
bool IsNumeric(uint32_t c);    // str.isnumeric, near enough
bool IsPrintable(uint32_t c);  // str.isprintable
bool IsUpper(uint32_t c);
bool IsLower(uint32_t c);
bool IsWordChar(uint32_t c);  // \w

// str.strip and its one-sided forms; `chars` null: white space.
std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right);
// Work for a byte below in that of copying one: each character is looked up in tables.
inline constexpr size_t kCaseCost = 16;
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);
std::string SwapCase(std::string_view text);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

}  // namespace choir::tmpl
