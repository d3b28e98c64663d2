#include "router/text/oniguruma.h"

#include <cctype>
#include <vector>

#include "router/text/oniguruma_names.h"
#include "router/text/unicode.h"

namespace choir::text {
namespace {

using oniguruma::BareWord;
using oniguruma::Digit;
using oniguruma::kNoSpace;
using oniguruma::kSpace;
using oniguruma::NamedClass;
using oniguruma::Word;

constexpr int kDepthMax = 100;
class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  StatusOr<std::string> Run() {
    CHOIR_RETURN_IF_ERROR(Sequence(0));
    if (pos_ < in_.size()) return Error("unmatched ')'");
    return std::move(out_);
  }

 private:
  bool At(std::string_view text) const { return in_.substr(pos_).starts_with(text); }
  bool AtEnd() const { return pos_ >= in_.size(); }

  Status Error(std::string_view what) const {
    return InvalidArgument("regular expression: {} at byte {}", what, pos_);
  }

  void CopyChar(std::string* to) {
    const size_t from = pos_;
    unicode::Next(in_, &pos_);
    to->append(in_.substr(from, pos_ - from));
  }

  // Alternatives up to the closing parenthesis or the end.
  Status Sequence(int depth) {
    if (depth > kDepthMax) return Error("too deeply nested");
    std::string closing;  // of option groups that last to the end of this group
    size_t atom = std::string::npos;
    while (!AtEnd() && in_[pos_] != ')') {
      const char c = in_[pos_];
      if (atom != std::string::npos && (c == '*' || c == '+' || c == '?' || c == '{')) {
        bool was_quantifier = false;
        CHOIR_RETURN_IF_ERROR(Quantifier(atom, &was_quantifier));
        if (was_quantifier) continue;
      }
      if (c == '|' || c == '^' || c == '$') {
        out_.push_back(c);
        ++pos_;
        atom = std::string::npos;
        continue;
      }
      atom = out_.size();
      CHOIR_RETURN_IF_ERROR(Atom(depth, &closing));
    }
    out_ += closing;
    return {};
  }

  Status Atom(int depth, std::string* closing) {
    switch (in_[pos_]) {
      case '(':
        return Group(depth, closing);
      case '[': {
        std::string set;
        CHOIR_RETURN_IF_ERROR(Class(depth, &set));
        out_ += set;
        return {};
      }
      case '\\':
        return Escape();
      case '.':
        out_.push_back('.');
        ++pos_;
        return {};
      default:
        if (in_[pos_] == '{' || in_[pos_] == '}' || in_[pos_] == ']') out_.push_back('\\');
        CopyChar(&out_);
        return {};
    }
  }

  Status Group(int depth, std::string* closing) {
    static constexpr std::string_view kPlain[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};
    std::string_view open;
    for (const std::string_view p : kPlain) {
      if (At(p)) open = p;
    }
    if (open.empty() && At("(?#")) {
      pos_ = in_.find(')', pos_);
      if (pos_ == std::string_view::npos) return pos_ = in_.size(), Error("unclosed comment");
      ++pos_;
      return {};
    }
    if (open.empty() && At("(?<")) {
      const size_t end = in_.find('>', pos_);
      if (end == std::string_view::npos) return Error("unclosed group name");
      open = in_.substr(pos_, end + 1 - pos_);
    }
    if (open.empty() && At("(?")) return Options(depth, closing);
    if (open.empty()) open = "(";
    out_ += open;
    pos_ += open.size();
    CHOIR_RETURN_IF_ERROR(Sequence(depth + 1));
    return Close();
  }

  Status Close() {
    if (AtEnd()) return Error("unclosed group");
    ++pos_;
    out_.push_back(')');
    return {};
  }

  // (?i), (?i-m:...): the first kind lasts to the end of the enclosing group, over its
  // alternatives.
  Status Options(int depth, std::string* closing) {
    size_t i = pos_ + 2;
    std::string flags;
    for (; i < in_.size() && in_[i] != ':' && in_[i] != ')'; ++i) {
      if (std::string_view("imx-").find(in_[i]) == std::string_view::npos) {
        return Error("unsupported group");
      }
      if (in_[i] == 'x') return Error("unsupported option x");
      flags.push_back(in_[i] == 'm' ? 's' : in_[i]);
    }
    if (i >= in_.size()) return Error("unclosed group");
    out_ += "(?" + flags + ":";
    pos_ = i + 1;
    if (in_[i] == ')') {
      closing->push_back(')');
      return {};
    }
    CHOIR_RETURN_IF_ERROR(Sequence(depth + 1));
    return Close();
  }

  // {n}, {n,}, {,m}, {n,m} at pos_: its length and PCRE2's form; 0: ordinary text.
  size_t Interval(std::string* form, bool* exact) const {
    const size_t end = in_.find('}', pos_);
    if (end == std::string_view::npos) return 0;
    const std::string_view body = in_.substr(pos_ + 1, end - pos_ - 1);
    if (body.empty() || body == "," || body.find_first_not_of("0123456789,") != body.npos) return 0;
    if (body.find(',') != body.rfind(',')) return 0;
    *exact = body.find(',') == body.npos;
    *form = std::string(body.front() == ',' ? "{0" : "{") + std::string(body) + "}";
    return end + 1 - pos_;
  }

  Status Quantifier(size_t atom, bool* found) {
    std::string form(1, in_[pos_]);
    size_t length = 1;
    bool exact = false;
    const bool interval = in_[pos_] == '{';
    if (interval && (length = Interval(&form, &exact)) == 0) return {};
    *found = true;
    pos_ += length;
    out_ += form;
    if (AtEnd()) return {};
    // After an interval Ruby's + repeats it, and so does ? after an exact one.
    const bool lazy = in_[pos_] == '?' && !exact;
    const bool possessive = in_[pos_] == '+' && !interval;
    if (lazy || possessive) {
      out_.push_back(in_[pos_++]);
    }
    if (!AtEnd() && std::string_view("*+?{").find(in_[pos_]) != std::string_view::npos) {
      out_.insert(atom, "(?:");
      out_.push_back(')');
    }
    return {};
  }

  // \p{...} at pos_; `set` is without brackets when `inside` one.
  Status Property(bool inside, std::string* to) {
    const size_t end = in_.find('}', pos_);
    if (pos_ + 2 >= in_.size() || in_[pos_ + 2] != '{' || end == std::string_view::npos) {
      return Error("unsupported property");
    }
    std::string name(in_.substr(pos_ + 3, end - pos_ - 3));
    bool negated = in_[pos_ + 1] == 'P';
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.erase(0, 1);
    }
    if (name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_") !=
        std::string::npos) {
      return Error("unsupported property " + name);
    }
    std::string lower;
    for (const char c : name) lower.push_back(static_cast<char>(std::tolower(c)));
    const std::string named = !inside && lower == "word" ? BareWord() : NamedClass(lower);
    if (inside && negated && !named.empty()) return Error("unsupported negated property in a set");
    const std::string items = named.empty() ? oniguruma::Property(name) : named;
    if (!inside) {
      *to += (negated ? "[^" : "[") + items + "]";
    } else {
      *to += negated ? oniguruma::NegatedProperty(name) : items;
    }
    pos_ = end + 1;
    return {};
  }

  // Escapes that mean the same inside and outside a set; false: not one of them.
  StatusOr<bool> CommonEscape(bool inside, std::string* to) {
    const char c = in_[pos_ + 1];
    if (c == 'p' || c == 'P') {
      CHOIR_RETURN_IF_ERROR(Property(inside, to));
      return true;
    }
    if (c == 'u') {
      const std::string_view digits = in_.substr(pos_ + 2, 4);
      if (digits.size() < 4) return Error("short \\u");
      *to += "\\x{" + std::string(digits) + "}";
      pos_ += 6;
      return true;
    }
    if (c == 'x') return Hex(to);
    if (c == 's' || c == 'S') {
      *to += c == 's' ? kSpace : kNoSpace;
    } else if (c == 'd' || c == 'D') {
      const std::string outside = (c == 'd' ? "[" : "[^") + Digit() + "]";
      *to += !inside ? outside : c == 'd' ? Digit() : oniguruma::NegatedProperty("Nd");
    } else if (c == 'v') {
      *to += R"(\x0B)";
    } else if (std::string_view("ntrfae").find(c) != std::string_view::npos) {
      *to += {'\\', c};
    } else if (std::isalnum(static_cast<unsigned char>(c)) == 0) {
      *to += '\\';
      ++pos_;
      CopyChar(to);
      return true;
    } else {
      return false;
    }
    pos_ += 2;
    return true;
  }

  StatusOr<bool> Hex(std::string* to) {
    size_t end = pos_ + 2;
    if (end < in_.size() && in_[end] == '{') {
      end = in_.find('}', pos_);
      if (end == std::string_view::npos) return Error("unclosed \\x{");
      *to += in_.substr(pos_, end + 1 - pos_);
      pos_ = end + 1;
      return true;
    }
    while (end < in_.size() && end < pos_ + 4 && std::isxdigit(in_[end]) != 0) ++end;
    if (end == pos_ + 4 && in_[pos_ + 2] >= '8') return Error("byte escapes above \\x7F");
    *to += "\\x{" + std::string(in_.substr(pos_ + 2, end - pos_ - 2)) + "}";
    pos_ = end;
    return true;
  }

  Status Escape() {
    if (pos_ + 1 >= in_.size()) return Error("lone backslash");
    CHOIR_ASSIGN_OR_RETURN(const bool done, CommonEscape(false, &out_));
    if (done) return {};
    const char c = in_[pos_ + 1];
    const std::string word = "[" + BareWord() + "]";
    if (c == 'w') {
      out_ += word;
    } else if (c == 'W') {
      out_ += "[^" + BareWord() + "]";
    } else if (c == 'b') {
      out_ += "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))";
    } else if (c == 'B') {
      out_ += "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))";
    } else if (c == 'h' || c == 'H') {
      out_ += c == 'h' ? "[0-9A-Fa-f]" : "[^0-9A-Fa-f]";
    } else if (std::string_view("AzZGRK123456789").find(c) != std::string_view::npos) {
      out_ += {'\\', c};
    } else {
      return Error(std::string("unsupported escape \\") + c);
    }
    pos_ += 2;
    return {};
  }

  // A set at pos_ as an atom: [..], or (?:(?=[..])[..]) for an intersection.
  Status Class(int depth, std::string* to) {
    if (depth > kDepthMax) return Error("too deeply nested");
    ++pos_;
    bool negated = false;
    if (At("^")) {
      negated = true;
      ++pos_;
    }
    std::vector<std::string> parts(1);  // of &&; each the inside of a set, or a look-ahead "(?...)"
    bool first = true;
    while (true) {
      if (AtEnd()) return Error("unclosed set");
      if (in_[pos_] == ']' && !first) break;
      first = false;
      if (At("&&")) {
        pos_ += 2;
        parts.emplace_back();
        continue;
      }
      CHOIR_RETURN_IF_ERROR(ClassItem(depth, &parts.back()));
    }
    ++pos_;
    return Combine(parts, negated, to);
  }

  Status Combine(const std::vector<std::string>& parts, bool negated, std::string* to) {
    std::string intersection;
    for (size_t i = 0; i < parts.size(); ++i) {
      std::string set = parts[i];
      if (set.empty()) return Error("empty set");
      const bool whole = set.starts_with("\x01");  // a nested set that stands alone
      set = whole ? set.substr(1) : "[" + set + "]";
      if (parts.size() == 1 && !whole) {
        *to += (negated ? "[^" : "[") + parts[0] + "]";
        return {};
      }
      intersection += i + 1 < parts.size() ? "(?=" + set + ")" : set;
    }
    // One character that is in all of them, or not so.
    *to += negated ? "(?:(?!" + intersection + ")(?s:.))" : "(?:" + intersection + ")";
    return {};
  }

  Status ClassItem(int depth, std::string* to) {
    if (to->starts_with("\x01")) return Error("unsupported nested set");
    if (At("[:")) {
      const size_t end = in_.find(":]", pos_);
      if (end == std::string_view::npos) return Error("unclosed [: :]");
      const std::string name(in_.substr(pos_ + 2, end - pos_ - 2));
      // Here, but not in \p{Punct}, symbols are punctuation too.
      const std::string named =
          name == "punct" ? NamedClass(name) + oniguruma::Property("S") : NamedClass(name);
      if (named.empty()) return Error("unsupported [:" + name + ":]");
      *to += named;
      pos_ = end + 2;
      return {};
    }
    if (At("[")) return NestedClass(depth, to);
    if (!At("\\")) {
      if (At("^")) to->push_back('\\');
      CopyChar(to);
      return {};
    }
    if (pos_ + 1 >= in_.size()) return Error("lone backslash");
    CHOIR_ASSIGN_OR_RETURN(const bool done, CommonEscape(true, to));
    if (done) return {};
    const char c = in_[pos_ + 1];
    if (c == 'w') {
      *to += Word();
    } else if (c == 'h') {
      *to += "0-9A-Fa-f";
    } else if (c == 'b') {
      *to += R"(\x08)";
    } else {
      return Error(std::string("unsupported escape in a set: \\") + c);
    }
    pos_ += 2;
    return {};
  }

  // A set in a set: joined when it is a plain one, else it must stand alone (between two &&).
  Status NestedClass(int depth, std::string* to) {
    std::string nested;
    CHOIR_RETURN_IF_ERROR(Class(depth + 1, &nested));
    if (nested.starts_with("[") && !nested.starts_with("[^")) {
      *to += std::string_view(nested).substr(1, nested.size() - 2);
      return {};
    }
    if (!to->empty()) return Error("unsupported nested set");
    *to = "\x01" + nested;
    return {};
  }

  std::string_view in_;
  size_t pos_ = 0;
  std::string out_;
};

}  // namespace

StatusOr<std::string> OnigurumaToPcre2(std::string_view pattern) {
  if (!unicode::IsValid(pattern)) return InvalidArgument("regular expression: not UTF-8");
  return Translator(pattern).Run();
}

}  // namespace choir::text
