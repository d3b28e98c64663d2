#include "router/text/template/value.h"

#include <cmath>

#include "common/base/check.h"

namespace choir::tmpl {
namespace {

constexpr size_t kIndexFrom = 8;  // entries; below that, looking at each is faster
constexpr double kTwo63 = 9223372036854775808.0;

template <typename T>
T& Cast(const std::shared_ptr<Object>& object) {
  return *static_cast<T*>(object.get());
}

uint64_t Mix(uint64_t h) {
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdULL;
  return h ^ (h >> 29);
}

}  // namespace

Value Value::Bool(bool b) {
  Value v(Kind::kBool);
  v.int_ = b ? 1 : 0;
  return v;
}

Value Value::Int(int64_t i) {
  Value v(Kind::kInt);
  v.int_ = i;
  return v;
}

Value Value::Float(double d) {
  Value v(Kind::kFloat);
  v.float_ = d;
  return v;
}

Value Value::Of(Kind kind, std::shared_ptr<Object> object, bool safe) {
  Value v(kind);
  v.object_ = std::move(object);
  v.safe_ = safe;
  return v;
}

const std::string& Value::Text() const {
  CHOIR_DCHECK(kind_ == Kind::kString);
  return Cast<StringObject>(object_).text;
}
const ListObject& Value::List() const { return Cast<ListObject>(object_); }
const DictObject& Value::Dict() const { return Cast<DictObject>(object_); }
NamespaceObject& Value::Namespace() const { return Cast<NamespaceObject>(object_); }
const FunctionObject& Value::Function() const { return Cast<FunctionObject>(object_); }
IteratorObject& Value::Iterator() const { return Cast<IteratorObject>(object_); }
LoopObject& Value::Loop() const { return Cast<LoopObject>(object_); }

const std::string& Value::UndefinedMessage() const {
  static const std::string kNoMessage = "a value is undefined";
  return object_ == nullptr ? kNoMessage : Cast<StringObject>(object_).text;
}

const Value* DictObject::Find(const Value& key) const {
  const ptrdiff_t i = IndexOf(key);
  return i < 0 ? nullptr : &entries[static_cast<size_t>(i)].second;
}

const Value* DictObject::Find(const std::string& key) const {
  if (index_.empty()) {
    for (const auto& [k, v] : entries) {
      if (k.IsString() && k.Text() == key) return &v;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(std::hash<std::string>()(key));
  for (auto it = begin; it != end; ++it) {
    const Value& k = entries[it->second].first;
    if (k.IsString() && k.Text() == key) return &entries[it->second].second;
  }
  return nullptr;
}

ptrdiff_t DictObject::IndexOf(const Value& key) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (SameKey(entries[i].first, key)) return static_cast<ptrdiff_t>(i);
    }
    return -1;
  }
  const auto [begin, end] = index_.equal_range(HashOf(key));
  for (auto it = begin; it != end; ++it) {
    if (SameKey(entries[it->second].first, key)) return static_cast<ptrdiff_t>(it->second);
  }
  return -1;
}

void DictObject::Set(Value key, Value value) {
  const ptrdiff_t found = IndexOf(key);
  depth = std::max(depth, 1 + std::max(key.Depth(), value.Depth()));
  if (found >= 0) {
    entries[static_cast<size_t>(found)].second = std::move(value);
    return;
  }
  Charge(2 * sizeof(Value) + 32);
  entries.emplace_back(std::move(key), std::move(value));
  if (entries.size() == kIndexFrom + 1) {
    for (size_t i = 0; i < entries.size(); ++i) index_.emplace(HashOf(entries[i].first), i);
  } else if (entries.size() > kIndexFrom) {
    index_.emplace(HashOf(entries.back().first), entries.size() - 1);
  }
}

Value* NamespaceObject::Find(const std::string& name) {
  for (auto& [n, v] : fields) {
    if (n == name) return &v;
  }
  return nullptr;
}

const char* TypeName(const Value& v) {
  static constexpr const char* kSequences[] = {"list",      "tuple",       "range",
                                               "dict_keys", "dict_values", "dict_items"};
  switch (v.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return kSequences[static_cast<int>(v.List().type)];
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "namespace";
    case Kind::kFunction:
      return "function";
    case Kind::kIterator:
      return v.Iterator().type;
    case Kind::kLoop:
      return "loop";
    case Kind::kAbsent:
      break;
  }
  return "absent";
}

bool Truth(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
    case Kind::kAbsent:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return v.AsInt() != 0;
    case Kind::kFloat:
      return v.AsDouble() != 0;
    case Kind::kString:
      return !v.Text().empty();
    case Kind::kList:
      return !v.List().items.empty();
    case Kind::kDict:
      return !v.Dict().entries.empty();
    default:
      return true;
  }
}

bool IsHashable(const Value& v) {
  if (v.Is(Kind::kDict)) return false;
  if (!v.Is(Kind::kList)) return true;
  if (v.List().type == ListType::kRange) return true;
  if (v.List().type != ListType::kTuple) return false;
  for (const Value& item : v.List().items) {
    if (!IsHashable(item)) return false;
  }
  return true;
}

uint64_t HashOf(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
    case Kind::kAbsent:
      return static_cast<uint64_t>(v.kind()) + 11;
    case Kind::kBool:
    case Kind::kInt:
      return Mix(static_cast<uint64_t>(v.AsInt()));
    case Kind::kFloat: {
      const double d = v.AsDouble();
      if (d == std::floor(d) && d >= -kTwo63 && d < kTwo63) {
        return Mix(static_cast<uint64_t>(static_cast<int64_t>(d)));
      }
      return std::hash<double>()(d);
    }
    case Kind::kString:
      return std::hash<std::string>()(v.Text());
    case Kind::kList: {
      uint64_t h = 17;
      for (const Value& item : v.List().items) h = Mix(h * 31 + HashOf(item));
      return h;
    }
    default:
      return Mix(reinterpret_cast<uintptr_t>(v.Identity()));
  }
}

bool SameKey(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) return NumbersEqual(a, b);
  if (a.kind() != b.kind()) return false;
  if (a.IsString()) return a.Text() == b.Text();
  if (!a.Is(Kind::kList)) return a.IsNone() || a.IsUndefined() || a.Identity() == b.Identity();
  const auto& x = a.List();
  const auto& y = b.List();
  if (x.type != y.type || x.items.size() != y.items.size()) return false;
  for (size_t i = 0; i < x.items.size(); ++i) {
    if (!SameKey(x.items[i], y.items[i])) return false;
  }
  return true;
}

int CompareIntDouble(int64_t i, double d) {
  if (std::isnan(d)) return 2;
  if (d >= kTwo63) return -1;
  if (d < -kTwo63) return 1;
  const auto whole = static_cast<int64_t>(d);
  if (i != whole) return i < whole ? -1 : 1;
  const double rest = d - static_cast<double>(whole);
  return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

bool NumbersEqual(const Value& a, const Value& b) {
  if (a.IsIntegral() && b.IsIntegral()) return a.AsInt() == b.AsInt();
  if (a.IsIntegral()) return CompareIntDouble(a.AsInt(), b.AsDouble()) == 0;
  if (b.IsIntegral()) return CompareIntDouble(b.AsInt(), a.AsDouble()) == 0;
  return a.AsDouble() == b.AsDouble();
}

}  // namespace choir::tmpl
