#include "router/text/template/lexer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

// Line ends become \n and one at the very end is dropped, as Jinja does by default.
std::string NormalizeNewlines(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), text_(source_) {}

  StatusOr<std::vector<Token>> Run() {
    while (pos_ < text_.size()) CHOIR_RETURN_IF_ERROR(LexRoot());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  template <typename... A>
  Status Fail(fmt::format_string<A...> format, A&&... args) {
    return InvalidArgument("chat template, line {}: {}", line_,
                           fmt::format(format, std::forward<A>(args)...));
  }

  char At(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  bool Has(size_t i, std::string_view what) const {
    return i < text_.size() && text_.substr(i, what.size()) == what;
  }

  void Add(TokenKind kind, std::string text) {
    tokens_.push_back(Token{.kind = kind, .line = line_, .text = std::move(text)});
  }

  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<ptrdiff_t>(pos_),
                                         text_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    if (to > pos_) line_starting_ = text_[to - 1] == '\n';
    pos_ = to;
  }

  size_t SkipSpace(size_t i) const {
    while (i < text_.size()) {
      size_t next = i;
      if (!IsSpace(NextChar(text_, &next))) break;
      i = next;
    }
    return i;
  }

  // Where a closing delimiter that starts at `i` ends, with the white space it takes: `-%}` all of
  // it, `%}` one line end, `+%}` none. npos when there is none at `i`.
  size_t CloseAt(size_t i, std::string_view close, bool trims) const {
    if (Has(i, close)) {
      i += close.size();
      return trims && At(i) == '\n' ? i + 1 : i;
    }
    if (!Has(i + 1, close)) return npos;
    if (At(i) == '-') return SkipSpace(i + 1 + close.size());
    return At(i) == '+' && trims ? i + 1 + close.size() : npos;
  }

  size_t FindOpening() const {
    for (size_t i = text_.find('{', pos_); i != npos; i = text_.find('{', i + 1)) {
      const char c = At(i + 1);
      if (c == '%' || c == '{' || c == '#') return i;
    }
    return npos;
  }

  // Text before a tag at `end`, less what the tag's sign and lstrip_blocks take from it.
  void AddData(size_t end, char sign, bool is_output) {
    std::string_view data = text_.substr(pos_, end - pos_);
    if (sign == '-') {
      data = Strip(data, nullptr, false, true);
    } else if (sign != '+' && !is_output) {
      const size_t newline = data.rfind('\n');
      const size_t line = newline == npos ? 0 : newline + 1;
      if ((line > 0 || line_starting_) && Strip(data.substr(line), nullptr, true, true).empty()) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) Add(TokenKind::kData, std::string(data));
    Advance(end);
  }

  Status LexRoot() {
    const size_t open = FindOpening();
    if (open == npos) {
      Add(TokenKind::kData, std::string(text_.substr(pos_)));
      Advance(text_.size());
      return {};
    }
    const char kind = At(open + 1);
    const char sign = At(open + 2) == '-' || At(open + 2) == '+' ? At(open + 2) : ' ';
    const size_t inside = open + (sign == ' ' ? 2 : 3);
    AddData(open, sign, kind == '{');
    if (kind == '#') return LexComment(inside);
    if (kind == '%') {
      const size_t raw = RawBegin(inside);
      if (raw != npos) return LexRaw(raw);
    }
    Add(kind == '{' ? TokenKind::kOutputBegin : TokenKind::kBlockBegin, "");
    Advance(inside);
    return LexTag(kind == '{');
  }

  Status LexComment(size_t inside) {
    for (size_t i = inside; i < text_.size(); ++i) {
      const size_t end = CloseAt(i, "#}", true);
      if (end == npos) continue;
      Advance(end);
      return {};
    }
    return Fail("missing end of comment");
  }

  // After `{%`: where the text of a raw block begins, or npos.
  size_t RawBegin(size_t i) const {
    i = SkipSpace(i);
    if (!Has(i, "raw")) return npos;
    return CloseAt(SkipSpace(i + 3), "%}", false);
  }

  Status LexRaw(size_t begin) {
    Advance(begin);
    for (size_t i = text_.find("{%", pos_); i != npos; i = text_.find("{%", i + 1)) {
      const char sign = At(i + 2) == '-' || At(i + 2) == '+' ? At(i + 2) : ' ';
      const size_t word = SkipSpace(i + (sign == ' ' ? 2 : 3));
      if (!Has(word, "endraw")) continue;
      const size_t end = CloseAt(SkipSpace(word + 6), "%}", true);
      if (end == npos) continue;
      AddData(i, sign, false);
      Advance(end);
      return {};
    }
    return Fail("missing end of raw block");
  }

  Status LexTag(bool is_output) {
    std::string open_brackets;
    for (;;) {
      if (open_brackets.empty()) {
        const size_t end = CloseAt(pos_, is_output ? "}}" : "%}", !is_output);
        if (end != npos) {
          Add(is_output ? TokenKind::kOutputEnd : TokenKind::kBlockEnd, "");
          Advance(end);
          return {};
        }
      }
      if (pos_ >= text_.size()) return Fail("unexpected end of template inside a tag");
      const size_t after_space = SkipSpace(pos_);
      if (after_space > pos_) {
        Advance(after_space);
        continue;
      }
      CHOIR_RETURN_IF_ERROR(LexToken(&open_brackets));
    }
  }

  Status LexToken(std::string* open_brackets) {
    const char c = At(pos_);
    if (c >= '0' && c <= '9') return LexNumber();
    if (c == '\'' || c == '"') return LexString(c);
    size_t end = pos_;
    while (end < text_.size()) {
      size_t next = end;
      if (!IsWordChar(NextChar(text_, &next))) break;
      end = next;
    }
    if (end > pos_) {
      Add(TokenKind::kName, std::string(text_.substr(pos_, end - pos_)));
      Advance(end);
      return {};
    }
    return LexOperator(open_brackets);
  }

  Status LexOperator(std::string* open_brackets) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    std::string_view op = text_.substr(pos_, 1);
    for (const auto two : kTwo) {
      if (Has(pos_, two)) op = two;
    }
    if (op.size() == 1 && std::string_view("+-/*%~[](){}<>=.:|,;").find(op[0]) == npos) {
      size_t next = pos_;
      NextChar(text_, &next);
      return Fail("unexpected character '{}'", text_.substr(pos_, next - pos_));
    }
    const char c = op[0];
    if (c == '(' || c == '[' || c == '{')
      open_brackets->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets->empty()) return Fail("unexpected '{}'", c);
      if (open_brackets->back() != c) {
        return Fail("unexpected '{}', expected '{}'", c, open_brackets->back());
      }
      open_brackets->pop_back();
    }
    Add(TokenKind::kOperator, std::string(op));
    Advance(pos_ + op.size());
    return {};
  }

  // Digits with single underscores between them; returns where they end.
  size_t Digits(size_t i, int base) const {
    const auto is_digit = [&](char c) {
      if (base == 16) return std::isxdigit(static_cast<unsigned char>(c)) != 0;
      return c >= '0' && c < '0' + base;
    };
    while (is_digit(At(i)) || (At(i) == '_' && is_digit(At(i + 1)))) ++i;
    return i;
  }

  Status LexNumber() {
    const char prefix = static_cast<char>(At(pos_ + 1) | 0x20);
    const int base = At(pos_) != '0' ? 10
                     : prefix == 'x' ? 16
                     : prefix == 'o' ? 8
                     : prefix == 'b' ? 2
                                     : 10;
    if (base != 10 && Digits(pos_ + 2, base) > pos_ + 2) {
      return AddInteger(pos_ + 2, Digits(pos_ + 2, base), base);
    }
    size_t end = Digits(pos_, 10);
    bool is_float = false;
    const bool after_dot = pos_ > 0 && text_[pos_ - 1] == '.';
    if (!after_dot && At(end) == '.' &&
        std::isdigit(static_cast<unsigned char>(At(end + 1))) != 0) {
      end = Digits(end + 1, 10);
      is_float = true;
    }
    if (!after_dot && (At(end) | 0x20) == 'e') {
      const size_t digits = end + (At(end + 1) == '+' || At(end + 1) == '-' ? 2 : 1);
      if (std::isdigit(static_cast<unsigned char>(At(digits))) != 0) {
        end = Digits(digits, 10);
        is_float = true;
      }
    }
    if (is_float) {
      std::string digits(text_.substr(pos_, end - pos_));
      std::erase(digits, '_');
      Add(TokenKind::kFloat, digits);
      tokens_.back().number = std::strtod(digits.c_str(), nullptr);
      Advance(end);
      return {};
    }
    if (At(pos_) == '0') {  // 007 is not a number
      end = pos_ + 1;
      while (At(end) == '0' || (At(end) == '_' && At(end + 1) == '0')) ++end;
    }
    return AddInteger(pos_, end, 10);
  }

  Status AddInteger(size_t begin, size_t end, int base) {
    std::string digits(text_.substr(begin, end - begin));
    std::erase(digits, '_');
    errno = 0;
    const long long value = std::strtoll(digits.c_str(), nullptr, base);
    const bool too_large = errno == ERANGE;
    Add(TokenKind::kInteger, digits);
    tokens_.back().integer = value;
    tokens_.back().too_large = too_large;
    Advance(end);
    return {};
  }

  Status LexString(char quote) {
    std::string value;
    size_t i = pos_ + 1;
    while (i < text_.size() && text_[i] != quote) {
      if (text_[i] != '\\') {
        value.push_back(text_[i++]);
        continue;
      }
      if (++i >= text_.size()) break;
      CHOIR_RETURN_IF_ERROR(Unescape(&i, &value));
    }
    if (i >= text_.size()) return Fail("a string is not closed");
    Add(TokenKind::kString, std::move(value));
    Advance(i + 1);
    return {};
  }

  // Python's escapes; text_[*i] follows the backslash. An unknown one keeps its backslash.
  Status Unescape(size_t* i, std::string* out) {
    static constexpr std::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    const char c = text_[*i];
    const size_t simple = kFrom.find(c);
    if (simple != npos) {
      out->push_back(kTo[simple]);
      ++*i;
      return {};
    }
    if (c == '\n') {
      ++*i;
      return {};
    }
    if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      for (int n = 0; n < 3 && At(*i) >= '0' && At(*i) <= '7'; ++n) {
        code = code * 8 + static_cast<uint32_t>(text_[(*i)++] - '0');
      }
      AppendChar(out, code);
      return {};
    }
    const size_t length = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == 'N') return Fail("\\N{{...}} escapes are not supported");
    if (length == 0) {
      out->push_back('\\');
      return {};
    }
    const std::string digits(text_.substr(*i + 1, length));
    if (digits.size() != length || Digits(*i + 1, 16) < *i + 1 + length ||
        digits.find('_') != std::string::npos) {
      return Fail("a \\{} escape needs {} hexadecimal digits", c, length);
    }
    const auto code = static_cast<uint32_t>(std::strtoul(digits.c_str(), nullptr, 16));
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      return Fail("\\{}{} is not a character", c, digits);
    }
    AppendChar(out, code);
    *i += 1 + length;
    return {};
  }

  static constexpr size_t npos = std::string_view::npos;
  const std::string source_;
  const std::string_view text_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

StatusOr<std::vector<Token>> Lex(const std::string& source) {
  if (!IsValidUtf8(source)) return InvalidArgument("chat template: the text is not valid UTF-8");
  std::string text = NormalizeNewlines(source);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace choir::tmpl
