// Filters that apply other filters and tests to each item: map, select, reject, selectattr,
// rejectattr, attr. They are lazy, as Python's generators are: an item is looked at when it is
// asked for.
#include "router/text/template/filters.h"
#include "router/text/template/ops.h"

namespace choir::tmpl {
namespace {

// The arguments after the first `n`.
Args Rest(const Args& args, size_t n) {
  Args rest;
  rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(n),
                         args.positional.end());
  rest.named = args.named;
  return rest;
}

StatusOr<Value> MapByAttribute(Runtime& rt, const Value& self, const Args& args) {
  Value path = Value::Absent(), absent = Value::Absent();
  for (const auto& [name, value] : args.named) {
    if (name == "attribute") {
      path = value;
    } else if (name == "default") {
      absent = value.IsNone() ? Value::Absent() : value;
    } else {
      return InvalidArgument("map: unexpected argument '{}'", name);
    }
  }
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(self));
  return rt.Iterator(DepthOf(self, args),
                     [&rt, cursor, path, absent](Value* item) mutable -> StatusOr<bool> {
                       CHOIR_ASSIGN_OR_RETURN(const bool more, cursor.Next(rt, item));
                       if (!more) return false;
                       CHOIR_ASSIGN_OR_RETURN(*item, GetPath(rt, *item, path, absent));
                       return true;
                     });
}

StatusOr<Value> Nothing(Runtime& rt) {
  return rt.Iterator(0, [](Value*) -> StatusOr<bool> { return false; });
}

StatusOr<Value> Map(Runtime& rt, const Value& self, const Args& args) {
  if (!Truth(self)) return Nothing(rt);
  if (args.positional.empty()) {
    bool by_attribute = false;
    for (const auto& named : args.named) by_attribute |= named.first == "attribute";
    if (!by_attribute) return InvalidArgument("map requires a filter argument");
    return MapByAttribute(rt, self, args);
  }
  const Value& name = args.positional[0];
  const Builtin filter = name.IsString() ? FindFilter(name.Text()) : nullptr;
  if (filter == nullptr) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, name));
    return InvalidArgument("there is no filter '{}'", text);
  }
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(self));
  return rt.Iterator(
      DepthOf(self, args),
      [&rt, cursor, filter, rest = Rest(args, 1)](Value* item) mutable -> StatusOr<bool> {
        CHOIR_ASSIGN_OR_RETURN(const bool more, cursor.Next(rt, item));
        if (!more) return false;
        CHOIR_ASSIGN_OR_RETURN(*item, filter(rt, *item, rest));
        return true;
      });
}

// select: kAttribute false, the test is on the item; selectattr: on the item's attribute.
template <bool kKeep, bool kAttribute>
StatusOr<Value> Select(Runtime& rt, const Value& self, const Args& args) {
  if (!Truth(self)) return Nothing(rt);
  constexpr size_t kTestAt = kAttribute ? 1 : 0;
  if (kAttribute && args.positional.empty()) {
    return InvalidArgument("Missing parameter for attribute name");
  }
  Builtin test = nullptr;
  Args rest;
  if (args.positional.size() > kTestAt) {
    const Value& name = args.positional[kTestAt];
    test = name.IsString() ? FindTest(name.Text()) : nullptr;
    if (test == nullptr) {
      CHOIR_ASSIGN_OR_RETURN(const std::string text, ToText(rt, name));
      return InvalidArgument("there is no test '{}'", text);
    }
    rest = Rest(args, kTestAt + 1);
  }
  const Value path = kAttribute ? args.positional[0] : Value::Absent();
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(self));
  return rt.Iterator(
      DepthOf(self, args),
      [&rt, cursor, test, path, rest = std::move(rest)](Value* item) mutable -> StatusOr<bool> {
        for (;;) {
          CHOIR_ASSIGN_OR_RETURN(const bool more, cursor.Next(rt, item));
          if (!more) return false;
          CHOIR_ASSIGN_OR_RETURN(Value tested, GetPath(rt, *item, path, Value::Absent()));
          if (test != nullptr) {
            CHOIR_ASSIGN_OR_RETURN(tested, test(rt, tested, rest));
          }
          if (Truth(tested) == kKeep) return true;
        }
      });
}

StatusOr<Value> Attr(Runtime& rt, const Value& self, const Args& args) {
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("attr", args, {"name"}, 1));
  if (!a[0].IsString()) return InvalidArgument("attr needs the name of an attribute");
  if (self.Is(Kind::kDict)) {  // methods only: items are no attributes
    CHOIR_ASSIGN_OR_RETURN(const Value none, rt.Finish(rt.NewDict()));
    CHOIR_ASSIGN_OR_RETURN(const Value found, GetAttribute(rt, none, a[0].Text()));
    return found.IsUndefined() ? StatusOr<Value>(found) : GetAttribute(rt, self, a[0].Text());
  }
  return GetAttribute(rt, self, a[0].Text());
}

constexpr NamedBuiltin kFilters[] = {
    {"map", Lazy<Map>},
    {"select", Lazy<Select<true, false>>},
    {"reject", Lazy<Select<false, false>>},
    {"selectattr", Lazy<Select<true, true>>},
    {"rejectattr", Lazy<Select<false, true>>},
    {"attr", Attr},
};

}  // namespace

Builtin FindSelectFilter(const std::string& name) { return FindIn(kFilters, name); }

}  // namespace choir::tmpl
