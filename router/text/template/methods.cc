// Methods that answer questions about text, and those of dicts, lists and numbers.
#include "router/text/template/methods.h"

#include <algorithm>
#include <cmath>

#include "router/text/template/filters.h"
#include "router/text/template/ops.h"
#include "router/text/template/text_search.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

struct Range {
  size_t begin = 0, end = 0;  // bytes
  bool valid = true;
};

// The optional start and end, in characters, of find(), count(), startswith().
StatusOr<Range> ByteRange(Runtime& rt, const std::string& text, const Value& start,
                          const Value& end) {
  Range range{0, text.size(), true};
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size()));
  const bool no_start = start.Is(Kind::kAbsent) || start.IsNone();
  const bool no_end = end.Is(Kind::kAbsent) || end.IsNone();
  if (no_start && no_end) return range;
  const auto n = static_cast<int64_t>(CountChars(text));
  int64_t from = 0, to = n;
  if (!no_start) {
    CHOIR_ASSIGN_OR_RETURN(from, IntArg(start, "start", 0));
  }
  if (!no_end) {
    CHOIR_ASSIGN_OR_RETURN(to, IntArg(end, "end", n));
  }
  from = from < 0 ? std::max<int64_t>(from + n, 0) : from;
  to = to < 0 ? std::max<int64_t>(to + n, 0) : std::min(to, n);
  range.valid = from <= to;
  range.begin = ByteOffset(text, static_cast<size_t>(std::min(from, n)));
  range.end = ByteOffset(text, static_cast<size_t>(to));
  return range;
}

template <bool kStart>
StatusOr<Value> HasAffix(Runtime& rt, const Value& self, const Args& args) {
  const char* who = kStart ? "startswith" : "endswith";
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional(who, args, {"affix", "start", "end"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const Range range, ByteRange(rt, self.Text(), a[1], a[2]));
  std::vector<Value> candidates = {a[0]};
  if (a[0].Is(Kind::kList) && a[0].List().type == ListType::kTuple) candidates = a[0].List().items;
  const auto text = std::string_view(self.Text())
                        .substr(range.begin, range.end - std::min(range.begin, range.end));
  for (const Value& candidate : candidates) {
    if (!candidate.IsString()) {
      return InvalidArgument("{} first arg must be str or a tuple of str, not {}", who,
                             TypeName(candidate));
    }
    if (range.valid &&
        (kStart ? text.starts_with(candidate.Text()) : text.ends_with(candidate.Text()))) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

// find, rfind, index, rindex.
template <bool kFromRight, bool kMustFind>
StatusOr<Value> FindSub(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("find", args, {"sub", "start", "end"}, 1));
  if (!a[0].IsString()) return InvalidArgument("must be str, not {}", TypeName(a[0]));
  CHOIR_ASSIGN_OR_RETURN(const Range range, ByteRange(rt, self.Text(), a[1], a[2]));
  size_t at = std::string_view::npos;
  if (range.valid) {
    CHOIR_RETURN_IF_ERROR(rt.StepBytes(self.Text().size() + a[0].Text().size()));
    const auto text = std::string_view(self.Text()).substr(range.begin, range.end - range.begin);
    at = kFromRight ? FindLastText(text, a[0].Text()) : FindText(text, a[0].Text());
  }
  if (at != std::string_view::npos) {
    return Value::Int(static_cast<int64_t>(
        CountChars(std::string_view(self.Text()).substr(0, range.begin + at))));
  }
  if (kMustFind) return InvalidArgument("substring not found");
  return Value::Int(-1);
}

StatusOr<Value> CountText(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("count", args, {"sub", "start", "end"}, 1));
  if (!a[0].IsString()) return InvalidArgument("must be str, not {}", TypeName(a[0]));
  CHOIR_ASSIGN_OR_RETURN(const Range range, ByteRange(rt, self.Text(), a[1], a[2]));
  if (!range.valid) return Value::Int(0);
  const auto text = std::string_view(self.Text()).substr(range.begin, range.end - range.begin);
  const std::string& sub = a[0].Text();
  if (sub.empty()) return Value::Int(static_cast<int64_t>(CountChars(text)) + 1);
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size() + sub.size()));
  int64_t n = 0;
  for (size_t at = FindText(text, sub); at != std::string_view::npos;
       at = FindText(text, sub, at + sub.size())) {
    ++n;
  }
  return Value::Int(n);
}

// isdigit and its relatives: every character, and at least one.
template <bool (*F)(uint32_t)>
StatusOr<Value> All(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the method", args, {}).status());
  const std::string& text = self.Text();
  for (size_t i = 0; i < text.size();) {
    if (!F(NextChar(text, &i))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}

bool IsAlphaOrDigit(uint32_t c) { return IsAlpha(c) || IsNumeric(c); }
bool IsAscii(uint32_t c) { return c < 0x80; }

template <bool (*kHas)(uint32_t), bool (*kHasNot)(uint32_t)>
StatusOr<Value> IsCase(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the method", args, {}).status());
  bool any = false;
  for (size_t i = 0; i < self.Text().size();) {
    const uint32_t c = NextChar(self.Text(), &i);
    if (kHasNot(c)) return Value::Bool(false);
    any |= kHas(c);
  }
  return Value::Bool(any);
}

template <ListType kType>
StatusOr<Value> View(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("the method", args, {}).status());
  std::vector<Value> items;
  items.reserve(self.Dict().entries.size());
  for (const auto& [key, value] : self.Dict().entries) {
    if (kType == ListType::kItems) {
      CHOIR_ASSIGN_OR_RETURN(Value pair, rt.List({key, value}, ListType::kTuple));
      items.push_back(std::move(pair));
    } else {
      items.push_back(kType == ListType::kKeys ? key : value);
    }
  }
  return rt.List(std::move(items), kType);
}

StatusOr<Value> Get(Runtime&, const Value& self, const Args& args) {
  if (!args.named.empty()) return InvalidArgument("dict.get() takes no keyword arguments");
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("get", args, {"key", "default"}, 1));
  if (!IsHashable(a[0])) return InvalidArgument("unhashable type: '{}'", TypeName(a[0]));
  const Value* found = self.Dict().Find(a[0]);
  if (found != nullptr) return *found;
  return a[1].Is(Kind::kAbsent) ? Value::None() : a[1];
}

StatusOr<Value> Copy(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("copy", args, {}).status());
  return self;  // nothing can change it
}

StatusOr<Value> CountItems(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("count", args, {"value"}, 1));
  int64_t n = 0;
  for (const Value& item : self.List().items) {
    CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, item, a[0]));
    n += same ? 1 : 0;
  }
  return Value::Int(n);
}

StatusOr<Value> IndexOf(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, BindPositional("index", args, {"value", "start", "end"}, 1));
  const auto& items = self.List().items;
  const auto n = static_cast<int64_t>(items.size());
  CHOIR_ASSIGN_OR_RETURN(int64_t from, IntArg(a[1], "start", 0));
  CHOIR_ASSIGN_OR_RETURN(int64_t to, IntArg(a[2], "end", n));
  from = std::max<int64_t>(from < 0 ? from + n : from, 0);
  to = std::min(to < 0 ? to + n : to, n);
  for (; from < to; ++from) {
    CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, items[static_cast<size_t>(from)], a[0]));
    if (same) return Value::Int(from);
  }
  return InvalidArgument("the value is not in the list");
}

StatusOr<Value> IsInteger(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("is_integer", args, {}).status());
  return Value::Bool(std::isfinite(self.AsDouble()) &&
                     self.AsDouble() == std::floor(self.AsDouble()));
}

constexpr NamedBuiltin kStringQueries[] = {
    {"startswith", HasAffix<true>},
    {"endswith", HasAffix<false>},
    {"find", FindSub<false, false>},
    {"rfind", FindSub<true, false>},
    {"index", FindSub<false, true>},
    {"rindex", FindSub<true, true>},
    {"count", CountText},
    {"isspace", All<IsSpace>},
    {"isalpha", All<IsAlpha>},
    {"isdecimal", All<IsDecimal>},
    {"isdigit", All<IsDecimal>},
    {"isnumeric", All<IsNumeric>},
    {"isalnum", All<IsAlphaOrDigit>},
    {"isascii", All<IsAscii>},
    {"isupper", IsCase<IsUpper, IsLower>},
    {"islower", IsCase<IsLower, IsUpper>},
};
constexpr NamedBuiltin kDictMethods[] = {{"items", View<ListType::kItems>},
                                         {"keys", View<ListType::kKeys>},
                                         {"values", View<ListType::kValues>},
                                         {"get", Get},
                                         {"copy", Copy}};
constexpr NamedBuiltin kListMethods[] = {{"count", CountItems}, {"index", IndexOf}};
constexpr NamedBuiltin kFloatMethods[] = {{"is_integer", IsInteger}};

}  // namespace

Builtin FindStringQuery(const std::string& name) { return FindIn(kStringQueries, name); }

Builtin FindMethod(const Value& object, const std::string& name) {
  switch (object.kind()) {
    case Kind::kString: {
      const Builtin method = FindStringMethod(name);
      return method != nullptr ? method : FindStringQuery(name);
    }
    case Kind::kDict:
      return FindIn(kDictMethods, name);
    case Kind::kList:
      if (object.List().type == ListType::kList && name == "copy") return Copy;
      return object.List().type <= ListType::kRange ? FindIn(kListMethods, name) : nullptr;
    case Kind::kFloat:
      return FindIn(kFloatMethods, name);
    default:
      return nullptr;
  }
}

bool IsMutatingMethod(const Value& object, const std::string& name) {
  static constexpr const char* kOfDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr const char* kOfList[] = {"append", "clear", "pop",    "reverse",
                                            "insert", "sort",  "extend", "remove"};
  if (object.Is(Kind::kDict)) {
    return std::find(std::begin(kOfDict), std::end(kOfDict), name) != std::end(kOfDict);
  }
  return object.Is(Kind::kList) && object.List().type == ListType::kList &&
         std::find(std::begin(kOfList), std::end(kOfList), name) != std::end(kOfList);
}

}  // namespace choir::tmpl
