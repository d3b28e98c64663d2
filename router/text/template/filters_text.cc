// Filters that make or measure text.
#include <algorithm>
#include <cctype>

#include "router/text/template/filters.h"
#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

template <std::string (*F)(std::string_view)>
StatusOr<Value> CaseFilter(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the filter", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, self));
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(kCaseCost * text.size()));
  return rt.String(F(text));
}

// Words begin at white space and ( { [ < -, not at any other punctuation.
std::string TitleWords(std::string_view text) {
  std::string out;
  std::string word;
  const auto flush = [&] {
    size_t first = 0;
    if (!word.empty()) NextChar(word, &first);
    out += Upper(std::string_view(word).substr(0, first));
    out += Lower(std::string_view(word).substr(first));
    word.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    const bool splits = c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || IsSpace(c);
    if (splits) {
      flush();
      out.append(text.substr(begin, i - begin));
    } else {
      word.append(text.substr(begin, i - begin));
    }
  }
  flush();
  return out;
}

StatusOr<Value> Trim(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("trim", args, {"chars"}));
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, self));
  if (a[0].Is(Kind::kAbsent) || a[0].IsNone()) {
    return rt.String(std::string(Strip(text, nullptr, true, true)));
  }
  if (!a[0].IsString()) return InvalidArgument("strip arg must be None or str");
  return rt.String(std::string(Strip(text, &a[0].Text(), true, true)));
}

StatusOr<Value> Replace(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("replace", args, {"old", "new", "count"}, 2));
  CHOIR_ASSIGN_OR_RETURN(std::string text, ToText(rt, self));
  CHOIR_ASSIGN_OR_RETURN(std::string from, ToText(rt, a[0]));
  CHOIR_ASSIGN_OR_RETURN(std::string to, ToText(rt, a[1]));
  Args call;
  call.positional = {rt.String(std::move(from)), rt.String(std::move(to))};
  if (!a[2].Is(Kind::kAbsent) && !a[2].IsNone()) call.positional.push_back(a[2]);
  const Value subject = rt.String(std::move(text));
  CHOIR_ASSIGN_OR_RETURN(const Value method, GetAttribute(rt, subject, "replace"));
  return method.Function().call(rt, subject, call);
}

StatusOr<Value> Join(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("join", args, {"d", "attribute"}));
  std::string separator;
  if (!a[0].Is(Kind::kAbsent)) {
    CHOIR_ASSIGN_OR_RETURN(separator, ToText(rt, a[0]));
  }
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(self));
  Sink out(rt);
  bool first = true;
  for (Value item;;) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, cursor.Next(rt, &item));
    if (!more) return rt.String(out.Take());
    if (!a[1].Is(Kind::kAbsent) && !a[1].IsNone()) {
      CHOIR_ASSIGN_OR_RETURN(item, GetPath(rt, item, a[1], Value::Absent()));
    }
    if (!std::exchange(first, false)) CHOIR_RETURN_IF_ERROR(out.Add(separator));
    CHOIR_RETURN_IF_ERROR(AddText(rt, item, &out));
  }
}

StatusOr<Value> Indent(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("indent", args, {"width", "first", "blank"}));
  std::string indention;
  if (a[0].IsString()) {
    indention = a[0].Text();
  } else {
    CHOIR_ASSIGN_OR_RETURN(const int64_t width, IntArg(a[0], "the width", 4));
    CHOIR_RETURN_IF_ERROR(rt.Fits(static_cast<uint64_t>(std::max<int64_t>(width, 0))));
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (self.IsUndefined()) return UndefinedError(self);
  if (!self.IsString()) return InvalidArgument("indent needs a string, not '{}'", TypeName(self));
  const std::string text = self.Text() + "\n";
  const bool blank = BoolArg(a[2], false);
  Sink out(rt);
  if (BoolArg(a[1], false)) CHOIR_RETURN_IF_ERROR(out.Add(indention));
  bool first = true;
  for (const std::string_view line : SplitLines(text, false)) {
    if (!first) CHOIR_RETURN_IF_ERROR(out.Add("\n"));
    if (!first && (blank || !line.empty())) CHOIR_RETURN_IF_ERROR(out.Add(indention));
    CHOIR_RETURN_IF_ERROR(out.Add(line));
    first = false;
  }
  return rt.String(out.Take());
}

StatusOr<Value> WordCount(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("wordcount", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, self));
  int64_t words = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const bool is_word = IsWordChar(NextChar(text, &i));
    words += is_word && !in_word ? 1 : 0;
    in_word = is_word;
  }
  return Value::Int(words);
}

StatusOr<Value> Truncate(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a,
                         Bind("truncate", args, {"length", "killwords", "end", "leeway"}));
  CHOIR_ASSIGN_OR_RETURN(const int64_t length, IntArg(a[0], "the length", 255));
  CHOIR_ASSIGN_OR_RETURN(const int64_t leeway,
                         IntArg(a[3].IsNone() ? Value::Absent() : a[3], "leeway", 5));
  const std::string end = a[2].IsString() ? a[2].Text() : "...";
  const auto end_chars = static_cast<int64_t>(CountChars(end));
  if (length < end_chars || leeway < 0) {
    return InvalidArgument("truncate: the length must hold at least '{}'", end);
  }
  CHOIR_ASSIGN_OR_RETURN(const int64_t chars, Length(self));
  if (chars <= length + leeway) return self;
  if (!self.IsString()) return InvalidArgument("truncate needs a string, not '{}'", TypeName(self));
  const std::string& text = self.Text();
  std::string cut = text.substr(0, ByteOffset(text, static_cast<size_t>(length - end_chars)));
  const size_t space = cut.rfind(' ');
  if (!BoolArg(a[1], false) && space != std::string::npos) cut.resize(space);
  return rt.String(cut + end);
}

StatusOr<Value> Center(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("center", args, {"width"}));
  CHOIR_ASSIGN_OR_RETURN(const int64_t width, IntArg(a[0], "the width", 80));
  CHOIR_ASSIGN_OR_RETURN(std::string text, ToText(rt, self));
  const Value subject = rt.String(std::move(text));
  CHOIR_ASSIGN_OR_RETURN(const Value method, GetAttribute(rt, subject, "center"));
  Args call;
  call.positional = {Value::Int(width)};
  return method.Function().call(rt, subject, call);
}

StatusOr<Value> ToStringFilter(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("string", args, {}).status());
  if (self.IsString()) return self;
  CHOIR_ASSIGN_OR_RETURN(std::string text, ToText(rt, self));
  return rt.String(std::move(text));
}

StatusOr<Value> Safe(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("safe", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(std::string text, ToText(rt, self));
  return rt.String(std::move(text), true);
}

template <bool kAlways>
StatusOr<Value> EscapeFilter(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("escape", args, {}).status());
  if (self.IsSafe() && !kAlways) return self;
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, self));
  CHOIR_RETURN_IF_ERROR(rt.Fits(text.size() * 6));
  return rt.String(Escape(text), true);
}

StatusOr<Value> Format(Runtime& rt, const Value& self, const Args& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return InvalidArgument("format takes positional or named arguments, not both");
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, self));
  if (args.named.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const Value tuple, rt.List(args.positional, ListType::kTuple));
    return FormatPercent(rt, text, tuple);
  }
  auto dict = rt.NewDict();
  for (const auto& [name, value] : args.named) dict->Set(rt.String(name), value);
  CHOIR_ASSIGN_OR_RETURN(const Value mapping, rt.Finish(std::move(dict)));
  return FormatPercent(rt, text, mapping);
}

// Percent-encoding of UTF-8; in a query a space is a plus and a slash is no exception.
Status AddQuoted(Runtime& rt, const Value& v, bool in_query, Sink* out) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, v));
  std::string quoted;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte < 0x80 && (std::isalnum(byte) != 0 || c == '_' || c == '.' ||
                                       c == '-' || c == '~' || (c == '/' && !in_query));
    if (plain) {
      quoted.push_back(c);
    } else {
      quoted += c == ' ' && in_query ? "+" : fmt::format("%{:02X}", byte);
    }
  }
  return out->Add(quoted);
}

// A text, or the pairs of a mapping or a list as a query.
StatusOr<Value> UrlEncode(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("urlencode", args, {}).status());
  Sink out(rt);
  Value pairs = self;
  if (self.Is(Kind::kDict)) {
    CHOIR_ASSIGN_OR_RETURN(const Value items, GetAttribute(rt, self, "items"));
    CHOIR_ASSIGN_OR_RETURN(pairs, items.Function().call(rt, self, {}));
  } else if (self.IsString() || self.IsNumber() || self.IsNone()) {
    CHOIR_RETURN_IF_ERROR(AddQuoted(rt, self, false, &out));
    return rt.String(out.Take());
  }
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, pairs));
  for (size_t i = 0; i < items.size(); ++i) {
    CHOIR_ASSIGN_OR_RETURN(const auto pair, ToVector(rt, items[i]));
    if (pair.size() != 2) return InvalidArgument("urlencode needs pairs, got {}", pair.size());
    if (i > 0) CHOIR_RETURN_IF_ERROR(out.Add("&"));
    CHOIR_RETURN_IF_ERROR(AddQuoted(rt, pair[0], true, &out));
    CHOIR_RETURN_IF_ERROR(out.Add("="));
    CHOIR_RETURN_IF_ERROR(AddQuoted(rt, pair[1], true, &out));
  }
  return rt.String(out.Take());
}

// Attributes of an XML element; those without a value are left out.
StatusOr<Value> XmlAttr(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("xmlattr", args, {"autospace"}));
  if (!self.Is(Kind::kDict)) {
    return InvalidArgument("xmlattr needs a dict, not '{}'", TypeName(self));
  }
  const auto escaped = [&rt](const Value& v) -> StatusOr<std::string> {
    CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, v));
    return v.IsSafe() ? text : Escape(text);
  };
  Sink out(rt);
  bool space = BoolArg(a[0], true);
  for (const auto& [key, value] : self.Dict().entries) {
    if (value.IsNone() || value.IsUndefined()) continue;
    CHOIR_ASSIGN_OR_RETURN(const std::string name, ToText(rt, key));
    if (name.find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      return InvalidArgument("Invalid character in attribute name: '{}'", name);
    }
    if (std::exchange(space, true)) CHOIR_RETURN_IF_ERROR(out.Add(" "));
    CHOIR_ASSIGN_OR_RETURN(const std::string key_text, escaped(key));
    CHOIR_ASSIGN_OR_RETURN(const std::string value_text, escaped(value));
    CHOIR_RETURN_IF_ERROR(out.Add(fmt::format("{}=\"{}\"", key_text, value_text)));
  }
  return rt.String(out.Take());
}

StatusOr<Value> ToJson(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(
      const auto a, Bind("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = BoolArg(a[0], false);
  style.sort_keys = BoolArg(a[3], false);
  if (!a[1].Is(Kind::kAbsent) && !a[1].IsNone()) {
    style.indented = true;
    style.item_separator = ",";
    if (a[1].IsString()) {
      style.indent = a[1].Text();
    } else {
      CHOIR_ASSIGN_OR_RETURN(const int64_t width, IntArg(a[1], "indent", 0));
      CHOIR_RETURN_IF_ERROR(rt.Fits(static_cast<uint64_t>(std::max<int64_t>(width, 0))));
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (!a[2].Is(Kind::kAbsent) && !a[2].IsNone()) {
    CHOIR_ASSIGN_OR_RETURN(const auto pair, ToVector(rt, a[2]));
    if (pair.size() != 2 || !pair[0].IsString() || !pair[1].IsString()) {
      return InvalidArgument("tojson: separators must be two strings");
    }
    style.item_separator = pair[0].Text();
    style.key_separator = pair[1].Text();
  }
  Sink out(rt);
  CHOIR_RETURN_IF_ERROR(AddJson(rt, self, style, &out));
  return rt.String(out.Take());
}

constexpr NamedBuiltin kFilters[] = {
    {"upper", CaseFilter<Upper>},
    {"lower", CaseFilter<Lower>},
    {"capitalize", CaseFilter<Capitalize>},
    {"title", CaseFilter<TitleWords>},
    {"trim", Trim},
    {"replace", Replace},
    {"join", Join},
    {"indent", Indent},
    {"wordcount", WordCount},
    {"truncate", Truncate},
    {"center", Center},
    {"string", ToStringFilter},
    {"safe", Safe},
    {"escape", EscapeFilter<false>},
    {"e", EscapeFilter<false>},
    {"forceescape", EscapeFilter<true>},
    {"format", Format},
    {"tojson", ToJson},
    {"urlencode", UrlEncode},
    {"xmlattr", XmlAttr},
};

}  // namespace

Builtin FindTextFilter(const std::string& name) { return FindIn(kFilters, name); }

}  // namespace choir::tmpl
