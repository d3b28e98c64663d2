#include "router/text/template/runtime.h"

#include "router/text/template/unicode.h"

namespace choir::tmpl {
Runtime::~Runtime() {
  for (const auto& release : releases_) release();
  for (const auto& space : namespaces_) space->fields.clear();
}

Status Runtime::Step(uint64_t n) {
  steps_ += n;
  if (steps_ > limits_.steps_max) {
    return InvalidArgument("more than {} steps: the template runs too long", limits_.steps_max);
  }
  if (meter_.live_bytes > limits_.memory_bytes_max) {
    return InvalidArgument("more than {} bytes of memory in use", limits_.memory_bytes_max);
  }
  return {};
}

Status Runtime::Fits(uint64_t bytes) const {
  if (bytes <= limits_.output_bytes_max && bytes <= limits_.memory_bytes_max) return {};
  return InvalidArgument("a text or list of more than {} bytes",
                         std::min(limits_.output_bytes_max, limits_.memory_bytes_max));
}

Value Runtime::String(std::string text, bool safe) {
  return Value::Of(Kind::kString, std::make_shared<StringObject>(&meter_, std::move(text)), safe);
}

StatusOr<Value> Runtime::List(std::vector<Value> items, ListType type, std::string label) {
  auto list = std::make_shared<ListObject>(&meter_);
  for (const Value& item : items) list->depth = std::max(list->depth, item.Depth());
  if (++list->depth > kValueDepthMax) {
    return InvalidArgument("values nest deeper than {}", kValueDepthMax);
  }
  list->Charge(sizeof(ListObject) + items.capacity() * sizeof(Value));
  list->items = std::move(items);
  list->type = type;
  list->label = std::move(label);
  CHOIR_RETURN_IF_ERROR(Step(1 + list->items.size() / 16));
  return Value::Of(Kind::kList, std::move(list));
}

StatusOr<Value> Runtime::Finish(std::shared_ptr<DictObject> dict) {
  if (dict->depth > kValueDepthMax) {
    return InvalidArgument("values nest deeper than {}", kValueDepthMax);
  }
  dict->Charge(sizeof(DictObject));
  return Value::Of(Kind::kDict, std::move(dict));
}

Value Runtime::Undefined(std::string message) {
  return Value::Of(Kind::kUndefined, std::make_shared<StringObject>(&meter_, std::move(message)));
}

Value Runtime::NewNamespace() {
  auto space = std::make_shared<NamespaceObject>(&meter_);
  space->Charge(sizeof(NamespaceObject) + 64);
  namespaces_.push_back(space);
  return Value::Of(Kind::kNamespace, std::move(space));
}

Value Runtime::Function(std::string name, Builtin call, Value self) {
  const uint32_t depth = self.Depth() + 1;
  auto function = std::make_shared<FunctionObject>(&meter_, std::move(name), call, std::move(self));
  function->depth = depth;
  return Value::Of(Kind::kFunction, std::move(function));
}

StatusOr<Value> Runtime::Iterator(uint32_t depth, std::function<StatusOr<bool>(Value*)> next,
                                  const char* type) {
  auto iterator = std::make_shared<IteratorObject>(&meter_);
  iterator->depth = 1 + depth;
  if (iterator->depth > kValueDepthMax) {
    return InvalidArgument("values nest deeper than {}", kValueDepthMax);
  }
  iterator->Charge(sizeof(IteratorObject) + 128);
  iterator->next = std::move(next);
  iterator->type = type;
  return Value::Of(Kind::kIterator, std::move(iterator));
}

StatusOr<Cursor> Cursor::Over(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kDict:
    case Kind::kIterator:
      break;
    default:
      return InvalidArgument("'{}' object is not iterable", TypeName(v));
  }
  Cursor cursor;
  cursor.source_ = v;
  return cursor;
}

StatusOr<bool> Cursor::Next(Runtime& rt, Value* item) {
  CHOIR_RETURN_IF_ERROR(rt.Step());
  switch (source_.kind()) {
    case Kind::kString: {
      const std::string& text = source_.Text();
      if (at_ >= text.size()) return false;
      const size_t begin = at_;
      NextChar(text, &at_);
      *item = rt.String(text.substr(begin, at_ - begin));
      return true;
    }
    case Kind::kList:
      if (at_ >= source_.List().items.size()) return false;
      *item = source_.List().items[at_++];
      return true;
    case Kind::kDict:
      if (at_ >= source_.Dict().entries.size()) return false;
      *item = source_.Dict().entries[at_++].first;
      return true;
    case Kind::kIterator:
      return source_.Iterator().next(item);
    default:
      return false;
  }
}

int64_t Cursor::Length() const {
  switch (source_.kind()) {
    case Kind::kString:
      return static_cast<int64_t>(CountChars(source_.Text()));
    case Kind::kList:
      return static_cast<int64_t>(source_.List().items.size());
    case Kind::kDict:
      return static_cast<int64_t>(source_.Dict().entries.size());
    case Kind::kIterator:
      return -1;
    default:
      return 0;
  }
}

StatusOr<std::vector<Value>> ToVector(Runtime& rt, const Value& v) {
  if (v.Is(Kind::kList)) {
    CHOIR_RETURN_IF_ERROR(rt.Step(1 + v.List().items.size() / 16));
    return v.List().items;
  }
  CHOIR_ASSIGN_OR_RETURN(Cursor cursor, Cursor::Over(v));
  std::vector<Value> items;
  for (Value item;;) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, cursor.Next(rt, &item));
    if (!more) return items;
    items.push_back(item);
    CHOIR_RETURN_IF_ERROR(rt.FitsValues(items.size()));
  }
}

StatusOr<std::vector<Value>> Bind(const char* who, const Args& args,
                                  std::initializer_list<const char*> names, size_t required) {
  if (args.positional.size() > names.size()) {
    return InvalidArgument("{} takes at most {} argument(s), {} given", who, names.size(),
                           args.positional.size());
  }
  std::vector<Value> bound(names.size(), Value::Absent());
  std::copy(args.positional.begin(), args.positional.end(), bound.begin());
  for (const auto& [name, value] : args.named) {
    size_t i = 0;
    for (const char* known : names) {
      if (name == known) break;
      ++i;
    }
    if (i == names.size()) return InvalidArgument("{} has no argument '{}'", who, name);
    if (i < args.positional.size()) return InvalidArgument("{} got '{}' twice", who, name);
    bound[i] = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i].Is(Kind::kAbsent)) {
      return InvalidArgument("{} needs its argument '{}'", who, names.begin()[i]);
    }
  }
  return bound;
}

StatusOr<std::vector<Value>> BindPositional(const char* who, const Args& args,
                                            std::initializer_list<const char*> names,
                                            size_t required) {
  if (!args.named.empty()) return InvalidArgument("{}() takes no keyword arguments", who);
  return Bind(who, args, names, required);
}

uint32_t DepthOf(const Value& v, const Args& args) {
  uint32_t depth = v.Depth();
  for (const Value& arg : args.positional) depth = std::max(depth, arg.Depth());
  for (const auto& [name, arg] : args.named) depth = std::max(depth, arg.Depth());
  return depth;
}

StatusOr<int64_t> IntArg(const Value& v, const char* what, int64_t absent) {
  if (v.Is(Kind::kAbsent)) return absent;
  if (v.IsIntegral()) return v.AsInt();
  if (v.IsUndefined()) return InvalidArgument("{}", v.UndefinedMessage());
  return InvalidArgument("{} must be an integer, not '{}'", what, TypeName(v));
}

}  // namespace choir::tmpl
