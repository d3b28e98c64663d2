#include "router/text/template/unicode.h"

#include <utf8proc.h>

#include <cstring>

namespace choir::tmpl {
namespace {

constexpr uint32_t kSmallFinalSigma = 0x3C2, kCapitalSigma = 0x3A3, kSmallSigma = 0x3C3;
constexpr uint32_t kSharpS = 0xDF, kCapitalSharpS = 0x1E9E, kCapitalIWithDot = 0x130;

// The full case folding; more than one code point marks a letter without a one-letter upper case.
int FullFold(uint32_t c, utf8proc_int32_t* folded, int capacity) {
  int boundary = 0;
  return static_cast<int>(utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), folded,
                                                  capacity, UTF8PROC_CASEFOLD, &boundary));
}

void AppendUpper(std::string* out, uint32_t c) {
  utf8proc_int32_t folded[8];
  if (c >= 0x80 && c != kCapitalSharpS && c != kCapitalIWithDot) {
    const int n = FullFold(c, folded, 8);
    for (int i = 0; n > 1 && i < n; ++i) {
      AppendChar(out, static_cast<uint32_t>(utf8proc_toupper(folded[i])));
    }
    if (n > 1) return;
  }
  AppendChar(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void AppendTitle(std::string* out, uint32_t c) {
  const auto title = static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
  utf8proc_int32_t folded[8];
  const int n = c >= 0x80 && (title == c || c == kSharpS) && c != kCapitalSharpS &&
                        c != kCapitalIWithDot && !IsUpper(c)
                    ? FullFold(c, folded, 8)
                    : 1;
  if (n <= 1) return AppendChar(out, title);
  AppendChar(out, static_cast<uint32_t>(utf8proc_toupper(folded[0])));
  for (int i = 1; i < n; ++i) AppendChar(out, static_cast<uint32_t>(folded[i]));
}

bool IsCased(uint32_t c) {
  return IsUpper(c) || IsLower(c) ||
         utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LT;
}

// A capital sigma that ends a word has its own small letter.
bool EndsWord(std::string_view text, size_t begin, size_t end) {
  if (begin == 0) return false;
  size_t before = PreviousChar(text, begin);
  if (!IsCased(NextChar(text, &before))) return false;
  return end >= text.size() || !IsCased(NextChar(text, &end));
}

void AppendLower(std::string* out, std::string_view text, size_t begin, size_t end, uint32_t c) {
  if (c == kCapitalSigma) {
    return AppendChar(out, EndsWord(text, begin, end) ? kSmallFinalSigma : kSmallSigma);
  }
  if (c == kCapitalIWithDot) {
    out->append("i\xCC\x87");
    return;
  }
  AppendChar(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

bool IsLineEnd(uint32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  const auto* p = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t n = utf8proc_iterate(p, left, &c);
    if (n <= 0) return false;
    p += n;
    left -= n;
  }
  return true;
}

uint32_t NextChar(std::string_view text, size_t* pos) {
  const auto byte = [&](size_t i) -> uint32_t {
    return *pos + i < text.size() ? static_cast<unsigned char>(text[*pos + i]) & 0x3Fu : 0;
  };
  const auto lead = static_cast<unsigned char>(text[*pos]);
  uint32_t c = lead;
  size_t n = 1;
  if (lead >= 0xF0) {
    c = (lead & 7u) << 18 | byte(1) << 12 | byte(2) << 6 | byte(3);
    n = 4;
  } else if (lead >= 0xE0) {
    c = (lead & 15u) << 12 | byte(1) << 6 | byte(2);
    n = 3;
  } else if (lead >= 0xC0) {
    c = (lead & 31u) << 6 | byte(1);
    n = 2;
  }
  *pos = std::min(*pos + n, text.size());
  return c;
}

size_t PreviousChar(std::string_view text, size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

void AppendChar(std::string* out, uint32_t c) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
    return;
  }
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

size_t CountChars(std::string_view text) {
  size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

size_t ByteOffset(std::string_view text, size_t char_index) {
  size_t pos = 0;
  while (char_index > 0 && pos < text.size()) {
    ++pos;
    while (pos < text.size() && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80) ++pos;
    --char_index;
  }
  return pos;
}

bool IsSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool IsAlpha(uint32_t c) {
  const int category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDecimal(uint32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
}

bool IsNumeric(uint32_t c) {
  const int category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPrintable(uint32_t c) {
  if (c == ' ') return true;
  const int category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS;
}

bool IsUpper(uint32_t c) { return utf8proc_isupper(static_cast<utf8proc_int32_t>(c)) != 0; }
bool IsLower(uint32_t c) { return utf8proc_islower(static_cast<utf8proc_int32_t>(c)) != 0; }
bool IsWordChar(uint32_t c) { return c == '_' || IsAlpha(c) || IsNumeric(c); }

std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right) {
  const auto drops = [&](uint32_t c) {
    if (chars == nullptr) return IsSpace(c);
    for (size_t i = 0; i < chars->size();) {
      if (NextChar(*chars, &i) == c) return true;
    }
    return false;
  };
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!drops(NextChar(text, &next))) break;
    begin = next;
  }
  while (right && end > begin) {
    const size_t previous = PreviousChar(text, end);
    size_t p = previous;
    if (!drops(NextChar(text, &p))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

std::string Upper(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) AppendUpper(&out, NextChar(text, &i));
  return out;
}

std::string Lower(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    AppendLower(&out, text, begin, i, c);
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    begin == 0 ? AppendTitle(&out, c) : AppendLower(&out, text, begin, i, c);
  }
  return out;
}

std::string Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    in_word ? AppendLower(&out, text, begin, i, c) : AppendTitle(&out, c);
    in_word = IsCased(c);
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    IsUpper(c) ? AppendLower(&out, text, begin, i, c) : AppendUpper(&out, c);
  }
  return out;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = i;
    const uint32_t c = NextChar(text, &i);
    if (!IsLineEnd(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(start, (keep_ends ? i : end) - start));
    start = i;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

}  // namespace choir::tmpl
