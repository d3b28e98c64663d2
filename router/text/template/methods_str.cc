// Methods of str that make text or lists.
#include <algorithm>

#include "router/text/template/filters.h"
#include "router/text/template/methods.h"
#include "router/text/template/ops.h"
#include "router/text/template/text_search.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

template <std::string (*F)(std::string_view)>
StatusOr<Value> Case(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the method", args, {}).status());
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(kCaseCost * self.Text().size()));
  return rt.String(F(self.Text()));
}

template <bool kLeft, bool kRight>
StatusOr<Value> StripMethod(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("strip", args, {"chars"}));
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(self.Text().size()));
  if (a[0].Is(Kind::kAbsent) || a[0].IsNone()) {
    return rt.String(std::string(Strip(self.Text(), nullptr, kLeft, kRight)));
  }
  if (!a[0].IsString()) return InvalidArgument("strip arg must be None or str");
  return rt.String(std::string(Strip(self.Text(), &a[0].Text(), kLeft, kRight)));
}

// Where the next piece ends and the one after begins, looking from the left.
struct Cut {
  size_t end, next;
};

Cut NextCut(std::string_view text, size_t from, const std::string* separator) {
  if (separator != nullptr) {
    const size_t at = FindText(text, *separator, from);
    return at == std::string_view::npos ? Cut{at, at} : Cut{at, at + separator->size()};
  }
  for (size_t i = from; i < text.size();) {
    const size_t begin = i;
    if (!IsSpace(NextChar(text, &i))) continue;
    const std::string_view rest = Strip(text.substr(i), nullptr, true, false);
    return {begin, text.size() - rest.size()};
  }
  return {std::string_view::npos, std::string_view::npos};
}

Cut PreviousCut(std::string_view text, const std::string* separator) {
  if (separator != nullptr) {
    const size_t at = FindLastText(text, *separator);
    return at == std::string_view::npos ? Cut{at, at} : Cut{at, at + separator->size()};
  }
  for (size_t i = text.size(); i > 0;) {
    const size_t end = i;
    i = PreviousChar(text, i);
    size_t p = i;
    if (!IsSpace(NextChar(text, &p))) continue;
    return {Strip(text.substr(0, i), nullptr, false, true).size(), end};
  }
  return {std::string_view::npos, std::string_view::npos};
}

template <bool kFromRight>
StatusOr<Value> Split(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("split", args, {"sep", "maxsplit"}));
  CHOIR_ASSIGN_OR_RETURN(int64_t left, IntArg(a[1], "maxsplit", -1));
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(self.Text().size()));
  const std::string* separator = nullptr;
  if (!a[0].Is(Kind::kAbsent) && !a[0].IsNone()) {
    if (!a[0].IsString()) return InvalidArgument("must be str or None, not {}", TypeName(a[0]));
    separator = &a[0].Text();
    if (separator->empty()) return InvalidArgument("empty separator");
  }
  std::string_view text = self.Text();
  if (separator == nullptr) {  // the unsplit rest keeps its far end
    text = Strip(text, nullptr, !kFromRight, kFromRight);
  }
  std::vector<Value> pieces;
  for (; left != 0; --left) {
    if (separator == nullptr && Strip(text, nullptr, true, true).empty()) break;
    const Cut cut = kFromRight ? PreviousCut(text, separator) : NextCut(text, 0, separator);
    if (cut.end == std::string_view::npos) break;
    if (separator == nullptr && !kFromRight && cut.next >= text.size()) {
      text = text.substr(0, cut.end);
      break;
    }
    if (separator == nullptr && kFromRight && cut.end == 0) {
      text = text.substr(cut.next);
      break;
    }
    const std::string_view piece = kFromRight ? text.substr(cut.next) : text.substr(0, cut.end);
    pieces.push_back(rt.String(std::string(piece)));
    text = kFromRight ? text.substr(0, cut.end) : text.substr(cut.next);
    const bool copies = kFromRight && separator != nullptr && separator->size() > kShortSearch;
    CHOIR_RETURN_IF_ERROR(rt.StepBytes(copies ? text.size() : 0));
  }
  if (separator != nullptr || !text.empty()) pieces.push_back(rt.String(std::string(text)));
  if (kFromRight) std::reverse(pieces.begin(), pieces.end());
  return rt.List(std::move(pieces));
}

StatusOr<Value> SplitLinesMethod(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("splitlines", args, {"keepends"}));
  std::vector<Value> lines;
  for (const auto line : SplitLines(self.Text(), BoolArg(a[0], false))) {
    lines.push_back(rt.String(std::string(line)));
  }
  return rt.List(std::move(lines));
}

StatusOr<Value> Replace(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("replace", args, {"old", "new", "count"}, 2));
  if (!a[0].IsString() || !a[1].IsString()) return InvalidArgument("replace() needs two strings");
  CHOIR_ASSIGN_OR_RETURN(int64_t left, IntArg(a[2], "count", -1));
  const std::string& text = self.Text();
  const std::string& from = a[0].Text();
  const std::string& to = a[1].Text();
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size()));
  Sink out(rt);
  size_t at = 0;
  for (; left != 0; --left) {
    const size_t found = from.empty() ? at : FindText(text, from, at);
    if (found == std::string::npos) break;
    CHOIR_RETURN_IF_ERROR(out.Add(std::string_view(text).substr(at, found - at)));
    CHOIR_RETURN_IF_ERROR(out.Add(to));
    at = found + from.size();
    if (!from.empty()) continue;
    if (at >= text.size()) return rt.String(out.Take());
    const size_t begin = at;  // an empty text is found between all characters
    NextChar(text, &at);
    CHOIR_RETURN_IF_ERROR(out.Add(std::string_view(text).substr(begin, at - begin)));
  }
  CHOIR_RETURN_IF_ERROR(out.Add(std::string_view(text).substr(at)));
  return rt.String(out.Take());
}

StatusOr<Value> Join(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("join", args, {"iterable"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, a[0]));
  Sink out(rt);
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].IsString()) {
      return InvalidArgument("sequence item {}: expected str instance, {} found", i,
                             TypeName(items[i]));
    }
    if (i > 0) CHOIR_RETURN_IF_ERROR(out.Add(self.Text()));
    CHOIR_RETURN_IF_ERROR(AddText(rt, items[i], &out));
  }
  return rt.String(out.Take());
}

template <bool kFromRight>
StatusOr<Value> Partition(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("partition", args, {"sep"}, 1));
  if (!a[0].IsString()) return InvalidArgument("must be str, not {}", TypeName(a[0]));
  if (a[0].Text().empty()) return InvalidArgument("empty separator");
  const std::string& text = self.Text();
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size() + a[0].Text().size()));
  const size_t at = kFromRight ? FindLastText(text, a[0].Text()) : FindText(text, a[0].Text());
  const Value empty = rt.String("");
  if (at == std::string::npos) {
    return kFromRight ? rt.List({empty, empty, self}, ListType::kTuple)
                      : rt.List({self, empty, empty}, ListType::kTuple);
  }
  return rt.List(
      {rt.String(text.substr(0, at)), a[0], rt.String(text.substr(at + a[0].Text().size()))},
      ListType::kTuple);
}

template <bool kPrefix>
StatusOr<Value> Remove(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("the method", args, {"affix"}, 1));
  if (!a[0].IsString()) return InvalidArgument("must be str, not {}", TypeName(a[0]));
  const std::string& text = self.Text();
  const std::string& affix = a[0].Text();
  if (kPrefix && text.starts_with(affix)) return rt.String(text.substr(affix.size()));
  if (!kPrefix && text.ends_with(affix))
    return rt.String(text.substr(0, text.size() - affix.size()));
  return self;
}

// ljust, rjust, center.
template <int kSide>
StatusOr<Value> Justify(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a,
                         BindPositional("the method", args, {"width", "fillchar"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const int64_t width, IntArg(a[0], "the width", 0));
  const std::string fill = a[1].IsString() ? a[1].Text() : " ";
  if (CountChars(fill) != 1) return InvalidArgument("the fill must be exactly one character long");
  const auto chars = static_cast<int64_t>(CountChars(self.Text()));
  if (width <= chars) return self;
  const auto pad = static_cast<uint64_t>(width - chars);
  // Python puts the odd one to the left when the width is odd too.
  const uint64_t left = kSide == 0  ? pad / 2 + (pad & static_cast<uint64_t>(width) & 1)
                        : kSide < 0 ? 0
                                    : pad;
  CHOIR_RETURN_IF_ERROR(rt.Fits(pad));
  Sink out(rt);
  for (uint64_t i = 0; i < left; ++i) CHOIR_RETURN_IF_ERROR(out.Add(fill));
  CHOIR_RETURN_IF_ERROR(out.Add(self.Text()));
  for (uint64_t i = left; i < pad; ++i) CHOIR_RETURN_IF_ERROR(out.Add(fill));
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(pad));
  return rt.String(out.Take());
}

StatusOr<Value> ZeroFill(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("zfill", args, {"width"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const int64_t width, IntArg(a[0], "the width", 0));
  const std::string& text = self.Text();
  const auto chars = static_cast<int64_t>(CountChars(text));
  if (width <= chars) return self;
  CHOIR_RETURN_IF_ERROR(rt.Fits(static_cast<uint64_t>(width)));
  const bool sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  return rt.String(text.substr(0, sign ? 1 : 0) +
                   std::string(static_cast<size_t>(width - chars), '0') +
                   text.substr(sign ? 1 : 0));
}

StatusOr<Value> FormatMethod(Runtime& rt, const Value& self, const Args& args) {
  return FormatBraces(rt, self.Text(), args);
}

StatusOr<Value> FormatMap(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("format_map", args, {"mapping"}, 1));
  if (!a[0].Is(Kind::kDict)) {
    return InvalidArgument("format_map needs a dict, not '{}'", TypeName(a[0]));
  }
  Args named;
  for (const auto& [key, value] : a[0].Dict().entries) {
    if (key.IsString()) named.named.emplace_back(key.Text(), value);
  }
  return FormatBraces(rt, self.Text(), named);
}

StatusOr<Value> ExpandTabs(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("expandtabs", args, {"tabsize"}));
  CHOIR_ASSIGN_OR_RETURN(const int64_t size, IntArg(a[0], "the tab size", 8));
  const std::string& text = self.Text();
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size()));
  Sink out(rt);
  int64_t column = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const uint32_t c = NextChar(text, &i);
    if (c != '\t') {
      CHOIR_RETURN_IF_ERROR(out.Add(std::string_view(text).substr(begin, i - begin)));
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    } else if (size > 0) {
      const int64_t spaces = size - column % size;
      CHOIR_RETURN_IF_ERROR(out.AddTimes(' ', static_cast<uint64_t>(spaces)));
      column += spaces;
    }
  }
  return rt.String(out.Take());
}

constexpr NamedBuiltin kMethods[] = {
    {"upper", Case<Upper>},
    {"lower", Case<Lower>},
    {"title", Case<Title>},
    {"capitalize", Case<Capitalize>},
    {"swapcase", Case<SwapCase>},
    {"casefold", Case<Lower>},
    {"strip", StripMethod<true, true>},
    {"lstrip", StripMethod<true, false>},
    {"rstrip", StripMethod<false, true>},
    {"split", Split<false>},
    {"rsplit", Split<true>},
    {"splitlines", SplitLinesMethod},
    {"replace", Replace},
    {"join", Join},
    {"partition", Partition<false>},
    {"rpartition", Partition<true>},
    {"removeprefix", Remove<true>},
    {"removesuffix", Remove<false>},
    {"center", Justify<0>},
    {"ljust", Justify<-1>},
    {"rjust", Justify<1>},
    {"zfill", ZeroFill},
    {"format", FormatMethod},
    {"format_map", FormatMap},
    {"expandtabs", ExpandTabs},
};

}  // namespace

Builtin FindStringMethod(const std::string& name) { return FindIn(kMethods, name); }

}  // namespace choir::tmpl
