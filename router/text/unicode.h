// UTF-8 and the few Unicode classes that tokenizers need. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace choir::unicode {

inline constexpr char32_t kReplacement = 0xFFFD;

// The character at text[*pos] (REQUIRES: *pos < size); moves *pos behind it. Ill-formed bytes give
// U+FFFD, one for each maximal subpart (Unicode 15, section 3.9, as WHATWG decoders do).
char32_t Next(std::string_view text, size_t* pos);
// Start of the character that ends at `end` (REQUIRES: well-formed text, end > 0).
size_t Previous(std::string_view text, size_t end);
void Append(char32_t c, std::string* out);

bool IsAscii(std::string_view text);
bool IsValid(std::string_view text);
// `text` with every ill-formed maximal subpart replaced by U+FFFD.
std::string Sanitize(std::string_view text);
// Bytes at the end that more bytes could complete to one character (0..3).
size_t IncompleteTail(std::string_view text);

bool IsWhitespace(char32_t c);   // White_Space: 25 members
bool IsNumeric(char32_t c);      // Nd, Nl, No
bool IsPunctuation(char32_t c);  // P, and all of ASCII's punctuation
bool IsMark(char32_t c);         // M
bool IsWord(char32_t c);         // \w of Unicode TS 18: Alphabetic, M, Nd, Pc, Join_Control

// Byte-level alphabet of GPT-2: every byte as one visible character.
char32_t CharOfByte(uint8_t byte);
int ByteOfChar(char32_t c);  // -1: not in the alphabet
// Bytes as their characters, appended.
void AppendByteChars(std::string_view bytes, std::string* out);
// The reverse. False (and nothing appended) when a character is not in the alphabet.
bool AppendCharBytes(std::string_view chars, std::string* out);

}  // namespace choir::unicode
