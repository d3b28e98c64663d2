// Attribute and item access with Jinja's fall-backs: `a.b` looks for a method first and an item
// second, `a['b']` the other way round; what is not there is undefined, not an error.
#include "router/text/template/interpreter.h"
#include "router/text/template/methods.h"
#include "router/text/template/ops.h"
#include "router/text/template/unicode.h"

namespace choir::tmpl {
namespace {

Value Missing(Runtime& rt, const Value& object, const std::string& name) {
  return rt.Undefined(
      object.IsNone() ? fmt::format("'None' has no attribute '{}'", name)
                      : fmt::format("'{} object' has no attribute '{}'", TypeName(object), name));
}

StatusOr<Value> MacroAttribute(Runtime& rt, const MacroObject& object, const std::string& name) {
  const MacroStmt& macro = *object.macro;
  if (name == "name") return rt.String(macro.name);
  if (name == "catch_kwargs") return Value::Bool(macro.uses_kwargs);
  if (name == "catch_varargs") return Value::Bool(macro.uses_varargs);
  if (name == "caller") return Value::Bool(macro.uses_caller);
  if (name != "arguments") return Value::Absent();
  std::vector<Value> arguments;
  for (const auto& [symbol, parameter] : macro.parameters) {
    arguments.push_back(rt.String(parameter));
  }
  return rt.List(std::move(arguments), ListType::kTuple);
}

// The method or field of that name, or kAbsent. Methods that would change a list or dict, and
// Python's inner attributes, are undefined with a message of their own.
StatusOr<Value> OwnAttribute(Runtime& rt, const Value& object, const std::string& name) {
  if (object.IsUndefined()) return UndefinedError(object);
  if (object.Is(Kind::kLoop)) return object.Loop().Attribute(rt, name);
  if (object.Is(Kind::kNamespace)) {
    const Value* field = object.Namespace().Find(name);
    return field == nullptr ? Value::Absent() : *field;
  }
  if (object.Is(Kind::kList) && object.List().label == kGroupLabel) {
    if (name == "grouper") return object.List().items[0];
    if (name == "list") return object.List().items[1];
  }
  if (object.Is(Kind::kFunction) && object.Function().call == nullptr) {
    return MacroAttribute(rt, static_cast<const MacroObject&>(object.Function()), name);
  }
  const bool is_inner = name.size() > 4 && name.starts_with("__") && name.ends_with("__");
  if (is_inner || IsMutatingMethod(object, name)) {
    return rt.Undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(object)));
  }
  const Builtin method = FindMethod(object, name);
  return method == nullptr ? Value::Absent() : rt.Function(name, method, object);
}

// The item, or kAbsent.
StatusOr<Value> OwnItem(Runtime& rt, const Value& object, const Value& key) {
  if (object.Is(Kind::kDict)) {
    if (!IsHashable(key)) return Value::Absent();
    const Value* item = key.IsString() ? object.Dict().Find(key.Text()) : object.Dict().Find(key);
    return item == nullptr ? Value::Absent() : *item;
  }
  if (!key.IsIntegral()) return Value::Absent();
  int64_t i = key.AsInt();
  if (object.Is(Kind::kList) && object.List().type <= ListType::kRange) {
    const auto& items = object.List().items;
    const auto n = static_cast<int64_t>(items.size());
    if (i < 0) i += n;
    return i < 0 || i >= n ? Value::Absent() : items[static_cast<size_t>(i)];
  }
  if (!object.IsString()) return Value::Absent();
  const std::string& text = object.Text();
  CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size()));
  if (i < 0) i += static_cast<int64_t>(CountChars(text));
  if (i < 0 || static_cast<uint64_t>(i) >= text.size()) return Value::Absent();
  const size_t begin = ByteOffset(text, static_cast<size_t>(i));
  if (begin >= text.size()) return Value::Absent();
  size_t end = begin;
  NextChar(text, &end);
  return rt.String(text.substr(begin, end - begin));
}

// Python's slice.indices: a bound given by the user becomes one inside [-1, n].
StatusOr<int64_t> Clamp(const Value& v, int64_t n, int64_t low, int64_t high, int64_t absent) {
  if (v.IsNone() || v.Is(Kind::kAbsent)) return absent;
  CHOIR_ASSIGN_OR_RETURN(int64_t i, IntArg(v, "a slice bound", 0));
  if (i < 0) i += n;
  return std::min(std::max(i, low), high);
}

}  // namespace

StatusOr<Value> GetAttribute(Runtime& rt, const Value& object, const std::string& name) {
  CHOIR_ASSIGN_OR_RETURN(Value found, OwnAttribute(rt, object, name));
  if (found.Is(Kind::kAbsent) && object.Is(Kind::kDict)) {
    const Value* item = object.Dict().Find(name);
    if (item != nullptr) return *item;
  }
  return found.Is(Kind::kAbsent) ? Missing(rt, object, name) : found;
}

StatusOr<Value> GetItem(Runtime& rt, const Value& object, const Value& key) {
  if (object.IsUndefined()) return UndefinedError(object);
  CHOIR_ASSIGN_OR_RETURN(Value found, OwnItem(rt, object, key));
  if (!found.Is(Kind::kAbsent)) return found;
  if (!key.IsString()) {
    Sink repr(rt);
    CHOIR_RETURN_IF_ERROR(AddRepr(rt, key, &repr));
    return rt.Undefined(fmt::format("{} object has no element {}", TypeName(object), repr.text()));
  }
  CHOIR_ASSIGN_OR_RETURN(found, OwnAttribute(rt, object, key.Text()));
  return found.Is(Kind::kAbsent) ? Missing(rt, object, key.Text()) : found;
}

StatusOr<Value> Slice(Runtime& rt, const Value& v, const Value& start, const Value& stop,
                      const Value& step) {
  if (v.IsUndefined()) return UndefinedError(v);
  const bool sliceable = v.IsString() || (v.Is(Kind::kList) && v.List().type <= ListType::kRange);
  if (!sliceable) return InvalidArgument("'{}' object cannot be sliced", TypeName(v));
  int64_t by = 1;
  if (!step.IsNone() && !step.Is(Kind::kAbsent)) {
    CHOIR_ASSIGN_OR_RETURN(by, IntArg(step, "a slice step", 1));
  }
  if (by == 0) return InvalidArgument("slice step cannot be zero");
  CHOIR_ASSIGN_OR_RETURN(const int64_t n, Length(v));
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1;
  CHOIR_ASSIGN_OR_RETURN(int64_t from, Clamp(start, n, low, high, by > 0 ? 0 : n - 1));
  CHOIR_ASSIGN_OR_RETURN(const int64_t to, Clamp(stop, n, low, high, by > 0 ? n : -1));
  by = std::min(std::max(by, -n - 1), n + 1);  // the same picks, no overflow
  if (v.IsString()) {
    const std::string& text = v.Text();
    CHOIR_RETURN_IF_ERROR(rt.StepBytes(text.size()));
    if (by == 1) {
      if (from >= to) return rt.String("");
      const size_t begin = ByteOffset(text, static_cast<size_t>(from));
      const std::string_view rest = std::string_view(text).substr(begin);
      return rt.String(
          std::string(rest.substr(0, ByteOffset(rest, static_cast<size_t>(to - from)))));
    }
    std::vector<std::string_view> chars;
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      NextChar(text, &i);
      chars.push_back(std::string_view(text).substr(begin, i - begin));
    }
    std::string out;
    for (; by > 0 ? from < to : from > to; from += by) out += chars[static_cast<size_t>(from)];
    return rt.String(std::move(out));
  }
  std::vector<Value> out;
  for (; by > 0 ? from < to : from > to; from += by) {
    out.push_back(v.List().items[static_cast<size_t>(from)]);
  }
  return rt.List(std::move(out),
                 v.List().type == ListType::kTuple ? ListType::kTuple : ListType::kList);
}

}  // namespace choir::tmpl
