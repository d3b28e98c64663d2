// Filters on sequences and mappings.
#include <algorithm>

#include "router/text/template/filters.h"
#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

StatusOr<Value> LengthFilter(Runtime&, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("length", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(const int64_t n, Length(self));
  return Value::Int(n);
}

StatusOr<Value> Default(Runtime&, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("default", args, {"default_value", "boolean"}));
  if (!self.IsUndefined() && !(BoolArg(a[1], false) && !Truth(self))) return self;
  if (!a[0].Is(Kind::kAbsent)) return a[0];
  return Value::Of(Kind::kString, std::make_shared<StringObject>(nullptr, ""));
}

StatusOr<Value> First(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("first", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(self));
  Value item;
  CHOIR_ASSIGN_OR_RETURN(const bool any, cursor.Next(rt, &item));
  return any ? item : rt.Undefined("No first item, sequence was empty.");
}

StatusOr<Value> Last(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("last", args, {}).status());
  if (self.Is(Kind::kIterator)) {
    return InvalidArgument("'{}' object is not reversible", TypeName(self));
  }
  CHOIR_ASSIGN_OR_RETURN(auto items, ToVector(rt, self));
  return items.empty() ? rt.Undefined("No last item, sequence was empty.") : items.back();
}

StatusOr<Value> ListFilter(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("list", args, {}).status());
  CHOIR_ASSIGN_OR_RETURN(auto items, ToVector(rt, self));
  return rt.List(std::move(items));
}

StatusOr<Value> Reverse(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("reverse", args, {}).status());
  if (self.IsString()) return Slice(rt, self, Value::None(), Value::None(), Value::Int(-1));
  CHOIR_ASSIGN_OR_RETURN(auto items, ToVector(rt, self));
  std::reverse(items.begin(), items.end());
  CHOIR_ASSIGN_OR_RETURN(Value list, rt.List(std::move(items)));
  if (self.Is(Kind::kIterator)) return list;
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(list));
  return rt.Iterator(
      self.Depth() + 1, [&rt, cursor](Value* item) mutable { return cursor.Next(rt, item); },
      "reversed");
}

StatusOr<Value> Items(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_RETURN_IF_ERROR(Bind("items", args, {}).status());
  if (!self.IsUndefined() && !self.Is(Kind::kDict)) {
    return InvalidArgument("Can only get item pairs from a mapping.");
  }
  return rt.Iterator(self.Depth() + 1,
                     [&rt, self, at = size_t{0}](Value* item) mutable -> StatusOr<bool> {
                       if (self.IsUndefined() || at >= self.Dict().entries.size()) return false;
                       const auto& [key, value] = self.Dict().entries[at++];
                       CHOIR_ASSIGN_OR_RETURN(*item, rt.List({key, value}, ListType::kTuple));
                       return true;
                     });
}

// A sort key: the value, or its lower case.
StatusOr<Value> SortKey(Runtime& rt, const Value& v, bool case_sensitive) {
  if (case_sensitive || !v.IsString()) return v;
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(v.Text().size()));
  return rt.String(Lower(v.Text()));
}

// Sorts by the first of each pair and keeps the second; stable in both directions, as Python's.
StatusOr<Value> Sorted(Runtime& rt, std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  Status failure;
  const auto less = [&](const auto& a, const auto& b) {
    if (!failure.ok()) return false;
    const auto result = reverse ? Less(rt, b.first, a.first, "<") : Less(rt, a.first, b.first, "<");
    if (!result.ok()) failure = result.status();
    return result.ok() && *result;
  };
  std::stable_sort(keyed.begin(), keyed.end(), less);
  if (!failure.ok()) return failure;
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& [key, value] : keyed) items.push_back(std::move(value));
  return rt.List(std::move(items));
}

// The key of sort's `attribute`, "a.b,c" naming several. Always a list: so equal items, of which
// the order may not be asked (None), need none.
StatusOr<Value> MultiKey(Runtime& rt, const Value& item, const Value& attribute,
                         bool case_sensitive) {
  if (!attribute.IsString()) {
    CHOIR_ASSIGN_OR_RETURN(Value v, GetPath(rt, item, attribute, Value::Absent()));
    CHOIR_ASSIGN_OR_RETURN(v, SortKey(rt, v, case_sensitive));
    return rt.List({std::move(v)});
  }
  std::vector<Value> keys;
  const std::string& names = attribute.Text();
  for (size_t begin = 0;;) {
    const size_t comma = std::min(names.find(',', begin), names.size());
    CHOIR_ASSIGN_OR_RETURN(
        Value v, GetPath(rt, item, rt.String(names.substr(begin, comma - begin)), Value::Absent()));
    CHOIR_ASSIGN_OR_RETURN(v, SortKey(rt, v, case_sensitive));
    keys.push_back(std::move(v));
    if (comma == names.size()) return rt.List(std::move(keys));
    begin = comma + 1;
  }
}

StatusOr<Value> Sort(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a,
                         Bind("sort", args, {"reverse", "case_sensitive", "attribute"}));
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, self));
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    CHOIR_ASSIGN_OR_RETURN(Value key, MultiKey(rt, item, a[2], BoolArg(a[1], false)));
    keyed.emplace_back(std::move(key), item);
  }
  return Sorted(rt, std::move(keyed), BoolArg(a[0], false));
}

StatusOr<Value> DictSort(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("dictsort", args, {"case_sensitive", "by", "reverse"}));
  const std::string by = a[1].IsString() ? a[1].Text() : "key";
  if (by != "key" && by != "value") {
    return InvalidArgument("You can only sort by either \"key\" or \"value\"");
  }
  if (self.IsUndefined()) return UndefinedError(self);
  if (!self.Is(Kind::kDict))
    return InvalidArgument("dictsort needs a dict, not '{}'", TypeName(self));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : self.Dict().entries) {
    CHOIR_ASSIGN_OR_RETURN(Value sort_key,
                           SortKey(rt, by == "key" ? key : value, BoolArg(a[0], false)));
    CHOIR_ASSIGN_OR_RETURN(Value pair, rt.List({key, value}, ListType::kTuple));
    keyed.emplace_back(std::move(sort_key), std::move(pair));
  }
  return Sorted(rt, std::move(keyed), BoolArg(a[2], false));
}

StatusOr<Value> Unique(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("unique", args, {"case_sensitive", "attribute"}));
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(self));
  const bool case_sensitive = BoolArg(a[0], false);
  return rt.Iterator(self.Depth() + 1,
                     [&rt, cursor, case_sensitive, path = a[1],
                      seen = rt.NewDict()](Value* item) mutable -> StatusOr<bool> {
                       for (;;) {
                         CHOIR_ASSIGN_OR_RETURN(const bool more, cursor.Next(rt, item));
                         if (!more) return false;
                         CHOIR_ASSIGN_OR_RETURN(Value key,
                                                GetPath(rt, *item, path, Value::Absent()));
                         CHOIR_ASSIGN_OR_RETURN(key, SortKey(rt, key, case_sensitive));
                         if (!IsHashable(key))
                           return InvalidArgument("unhashable type: '{}'", TypeName(key));
                         if (seen->Find(key) != nullptr) continue;
                         seen->Set(std::move(key), Value::None());
                         return true;
                       }
                     });
}

template <bool kMax>
StatusOr<Value> Extreme(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("min and max", args, {"case_sensitive", "attribute"}));
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, self));
  if (items.empty()) return rt.Undefined("No aggregated item, sequence was empty.");
  Value best, best_key;
  for (const Value& item : items) {
    CHOIR_ASSIGN_OR_RETURN(Value key, GetPath(rt, item, a[1], Value::Absent()));
    CHOIR_ASSIGN_OR_RETURN(key, SortKey(rt, key, BoolArg(a[0], false)));
    bool better = &item == &items.front();
    if (!better) {
      CHOIR_ASSIGN_OR_RETURN(better,
                             kMax ? Less(rt, best_key, key, ">") : Less(rt, key, best_key, "<"));
    }
    if (better) {
      best = item;
      best_key = std::move(key);
    }
  }
  return best;
}

StatusOr<Value> Sum(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("sum", args, {"attribute", "start"}));
  Value total = a[1].Is(Kind::kAbsent) ? Value::Int(0) : a[1];
  if (total.IsString())
    return InvalidArgument("sum() can't sum strings [use ''.join(seq) instead]");
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, self));
  for (const Value& item : items) {
    CHOIR_ASSIGN_OR_RETURN(const Value v, GetPath(rt, item, a[0], Value::Absent()));
    CHOIR_ASSIGN_OR_RETURN(total, Arithmetic(rt, MathOp::kAdd, total, v));
  }
  return total;
}

// Groups as one list that is handed out item by item.
StatusOr<Value> OneByOne(Runtime& rt, const Value& self, std::vector<Value> groups) {
  CHOIR_ASSIGN_OR_RETURN(const Value list, rt.List(std::move(groups)));
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(list));
  return rt.Iterator(self.Depth() + 1,
                     [&rt, cursor](Value* item) mutable { return cursor.Next(rt, item); });
}

StatusOr<Value> Batch(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("batch", args, {"linecount", "fill_with"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const int64_t size, IntArg(a[0], "the size of a batch", 1));
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, self));
  std::vector<Value> groups, group;
  for (const Value& item : items) {
    if (static_cast<int64_t>(group.size()) == size) {
      CHOIR_ASSIGN_OR_RETURN(Value full, rt.List(std::exchange(group, {})));
      groups.push_back(std::move(full));
    }
    group.push_back(item);
  }
  const bool fills = !a[1].Is(Kind::kAbsent) && !a[1].IsNone();
  if (!group.empty() && fills && static_cast<int64_t>(group.size()) < size) {
    CHOIR_RETURN_IF_ERROR(
        rt.FitsValues(std::min<uint64_t>(static_cast<uint64_t>(size), 1ull << 40)));
    group.resize(static_cast<size_t>(size), a[1]);
  }
  if (!group.empty()) {
    CHOIR_ASSIGN_OR_RETURN(Value rest, rt.List(std::move(group)));
    groups.push_back(std::move(rest));
  }
  return OneByOne(rt, self, std::move(groups));
}

StatusOr<Value> SliceFilter(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("slice", args, {"slices", "fill_with"}, 1));
  CHOIR_ASSIGN_OR_RETURN(const int64_t slices, IntArg(a[0], "the number of slices", 1));
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, self));
  if (slices == 0) return InvalidArgument("integer division or modulo by zero");
  const auto n = static_cast<int64_t>(items.size());
  CHOIR_RETURN_IF_ERROR(
      rt.FitsValues(static_cast<uint64_t>(std::clamp<int64_t>(slices, 0, 1ll << 40))));
  std::vector<Value> groups;
  auto at = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t size = n / slices + (i < n % slices ? 1 : 0);
    std::vector<Value> group(at, at + size);
    at += size;
    if (!a[1].Is(Kind::kAbsent) && !a[1].IsNone() && i >= n % slices) group.push_back(a[1]);
    CHOIR_ASSIGN_OR_RETURN(Value list, rt.List(std::move(group)));
    groups.push_back(std::move(list));
  }
  return OneByOne(rt, self, std::move(groups));
}

StatusOr<Value> GroupBy(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a,
                         Bind("groupby", args, {"attribute", "default", "case_sensitive"}, 1));
  const bool case_sensitive = BoolArg(a[2], false);
  const Value absent = a[1].IsNone() ? Value::Absent() : a[1];
  CHOIR_ASSIGN_OR_RETURN(const auto items, ToVector(rt, self));
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    CHOIR_ASSIGN_OR_RETURN(const Value v, GetPath(rt, item, a[0], absent));
    CHOIR_ASSIGN_OR_RETURN(Value key, SortKey(rt, v, case_sensitive));
    CHOIR_ASSIGN_OR_RETURN(Value pair, rt.List({key, v, item}, ListType::kTuple));
    keyed.emplace_back(std::move(key), std::move(pair));
  }
  CHOIR_ASSIGN_OR_RETURN(const Value sorted, Sorted(rt, std::move(keyed), false));
  std::vector<Value> groups, group;
  const auto& rows = sorted.List().items;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& row = rows[i].List().items;
    group.push_back(row[2]);
    bool ends = i + 1 == rows.size();
    if (!ends) {
      CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, row[0], rows[i + 1].List().items[0]));
      ends = !same;
    }
    if (!ends) continue;
    const Value grouper = rows[i + 1 - group.size()].List().items[1];
    CHOIR_ASSIGN_OR_RETURN(Value list, rt.List(std::exchange(group, {})));
    CHOIR_ASSIGN_OR_RETURN(Value pair,
                           rt.List({grouper, std::move(list)}, ListType::kTuple, kGroupLabel));
    groups.push_back(std::move(pair));
  }
  return rt.List(std::move(groups));
}

constexpr NamedBuiltin kFilters[] = {
    {"length", LengthFilter},
    {"count", LengthFilter},
    {"default", Default},
    {"d", Default},
    {"first", First},
    {"last", Last},
    {"list", ListFilter},
    {"reverse", Reverse},
    {"items", Lazy<Items>},
    {"sort", Sort},
    {"dictsort", DictSort},
    {"unique", Lazy<Unique>},
    {"min", Extreme<false>},
    {"max", Extreme<true>},
    {"sum", Sum},
    {"batch", Lazy<Batch>},
    {"slice", Lazy<SliceFilter>},
    {"groupby", GroupBy},
};

}  // namespace

Builtin FindListFilter(const std::string& name) { return FindIn(kFilters, name); }

StatusOr<Value> GetPath(Runtime& rt, Value item, const Value& path, const Value& absent) {
  if (path.Is(Kind::kAbsent) || path.IsNone()) return item;
  const auto step = [&](const Value& key) -> Status {
    CHOIR_ASSIGN_OR_RETURN(item, GetItem(rt, item, key));
    if (item.IsUndefined() && !absent.Is(Kind::kAbsent)) item = absent;
    return {};
  };
  if (!path.IsString()) {
    CHOIR_RETURN_IF_ERROR(step(path));
    return item;
  }
  const std::string& names = path.Text();
  for (size_t begin = 0;;) {
    const size_t dot = std::min(names.find('.', begin), names.size());
    const std::string name = names.substr(begin, dot - begin);
    const bool is_index = !name.empty() && name.size() < 18 &&
                          name.find_first_not_of("0123456789") == std::string::npos;
    CHOIR_RETURN_IF_ERROR(step(is_index ? Value::Int(std::atoll(name.c_str())) : rt.String(name)));
    if (dot == names.size()) return item;
    begin = dot + 1;
  }
}

}  // namespace choir::tmpl
