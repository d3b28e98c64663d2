#include "router/text/unicode.h"

#include <utf8proc.h>

#include <array>
#include <cstring>

#include "router/text/unicode_versions.h"

namespace choir::unicode {
namespace {

struct Lead {
  int more;     // continuation bytes
  uint8_t low;  // range of the first of them
  uint8_t high;
};

Lead LeadOf(uint8_t b) {
  if (b >= 0xC2 && b <= 0xDF) return {1, 0x80, 0xBF};
  if (b == 0xE0) return {2, 0xA0, 0xBF};
  if (b == 0xED) return {2, 0x80, 0x9F};
  if (b >= 0xE1 && b <= 0xEF) return {2, 0x80, 0xBF};
  if (b == 0xF0) return {3, 0x90, 0xBF};
  if (b >= 0xF1 && b <= 0xF3) return {3, 0x80, 0xBF};
  if (b == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

// Length of the well-formed character at pos, or minus the length of the ill-formed subpart.
int Measure(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (byte(pos) < 0x80) return 1;
  const Lead lead = LeadOf(byte(pos));
  if (lead.more == 0) return -1;
  for (int i = 1; i <= lead.more; ++i) {
    if (pos + i >= text.size()) return -i;
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte(pos + i) < low || byte(pos + i) > high) return -i;
  }
  return lead.more + 1;
}

struct ByteAlphabet {
  std::array<char32_t, 256> char_of;
  std::array<int16_t, 512> byte_of;

  ByteAlphabet() {
    byte_of.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool visible = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      char_of[b] = visible ? static_cast<char32_t>(b) : next++;
      byte_of[char_of[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

char32_t Next(std::string_view text, size_t* pos) {
  const auto b = [&](size_t i) { return static_cast<uint8_t>(text[*pos + i]); };
  const uint8_t first = b(0);
  if (first < 0x80) {
    ++*pos;
    return first;
  }
  const int length = Measure(text, *pos);
  char32_t c = kReplacement;
  if (length == 2) c = (first & 0x1Fu) << 6 | (b(1) & 0x3Fu);
  if (length == 3) c = (first & 0x0Fu) << 12 | (b(1) & 0x3Fu) << 6 | (b(2) & 0x3Fu);
  if (length == 4) {
    c = (first & 0x07u) << 18 | (b(1) & 0x3Fu) << 12 | (b(2) & 0x3Fu) << 6 | (b(3) & 0x3Fu);
  }
  *pos += length > 0 ? length : -length;
  return c;
}

size_t Previous(std::string_view text, size_t end) {
  --end;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

void Append(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

bool IsAscii(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080ull) != 0) return false;
  }
  for (; i < text.size(); ++i) {
    if (static_cast<uint8_t>(text[i]) >= 0x80) return false;
  }
  return true;
}

bool IsValid(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    if (static_cast<uint8_t>(text[pos]) < 0x80) {
      ++pos;
      continue;
    }
    const int length = Measure(text, pos);
    if (length < 0) return false;
    pos += length;
  }
  return true;
}

std::string Sanitize(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t pos = 0;
  size_t good = 0;
  while (pos < text.size()) {
    const int length = Measure(text, pos);
    if (length > 0) {
      pos += length;
      continue;
    }
    out.append(text.substr(good, pos - good));
    Append(kReplacement, &out);
    pos += -length;
    good = pos;
  }
  out.append(text.substr(good));
  return out;
}

size_t IncompleteTail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t pos = text.size() - back;
    const auto byte = static_cast<uint8_t>(text[pos]);
    if (byte < 0x80) return 0;
    if ((byte & 0xC0) == 0x80) continue;
    const int length = Measure(text, pos);
    const bool cut = length < 0 && LeadOf(byte).more > 0 && static_cast<size_t>(-length) == back;
    return cut ? back : 0;
  }
  return 0;
}

bool IsWhitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsNumeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO || IsLaterNumber(c);
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO &&
          !IsLaterPunctuation(c)) ||
         c == 0x166D || c == 0x111C9;  // were punctuation once
}

bool IsMark(char32_t c) {
  if (c < 0x300) return false;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

bool IsWord(char32_t c) {
  if (c < 0x80) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME) return true;
  if (category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL) return true;
  if (category == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D) return true;
  // Other_Alphabetic outside M: circled and squared letters.
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

char32_t CharOfByte(uint8_t byte) { return Alphabet().char_of[byte]; }

int ByteOfChar(char32_t c) { return c < 512 ? Alphabet().byte_of[c] : -1; }

void AppendByteChars(std::string_view bytes, std::string* out) {
  const ByteAlphabet& alphabet = Alphabet();
  for (const char b : bytes) Append(alphabet.char_of[static_cast<uint8_t>(b)], out);
}

bool AppendCharBytes(std::string_view chars, std::string* out) {
  const size_t before = out->size();
  size_t pos = 0;
  while (pos < chars.size()) {
    const int byte = ByteOfChar(Next(chars, &pos));
    if (byte < 0) {
      out->resize(before);
      return false;
    }
    out->push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace choir::unicode
