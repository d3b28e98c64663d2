// The values a template computes with: Python's, as far as templates can see them. Values are
// immutable (the sandbox forbids every method that would change a list or dict) except namespaces,
// iterators and loops; composite values share their objects by reference count. Cycles can only run
// through a namespace or a scope, and Runtime breaks those at the end. Used by one thread at a
// time, except the constants of a parsed template, which nothing changes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace choir::tmpl {

class Runtime;
class Value;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kDict,
  kNamespace,
  kFunction,
  kIterator,
  kLoop,
  kAbsent,  // not a template's value: an argument that was not given
};

// Bytes that the live objects of one rendering hold.
struct Meter {
  uint64_t live_bytes = 0;
};

class Object {
 public:
  explicit Object(Meter* meter) : meter_(meter) {}
  virtual ~Object() {
    if (meter_ != nullptr) meter_->live_bytes -= charged_;
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  void Charge(uint64_t bytes) {
    charged_ += bytes;
    if (meter_ != nullptr) meter_->live_bytes += bytes;
  }
  // How deep values nest below this one; bounded when made, so recursion over values is safe.
  uint32_t depth = 0;

 private:
  Meter* meter_;
  uint64_t charged_ = 0;
};

struct Args;
using Builtin = StatusOr<Value> (*)(Runtime&, const Value& self, const Args& args);

struct StringObject;
struct ListObject;
struct DictObject;
struct NamespaceObject;
struct FunctionObject;
struct IteratorObject;
class LoopObject;

class Value {
 public:
  Value() = default;  // undefined
  static Value Absent() { return Value(Kind::kAbsent); }
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool b);
  static Value Int(int64_t i);
  static Value Float(double d);
  static Value Of(Kind kind, std::shared_ptr<Object> object, bool safe = false);

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool IsUndefined() const { return kind_ == Kind::kUndefined; }
  bool IsNone() const { return kind_ == Kind::kNone; }
  bool IsString() const { return kind_ == Kind::kString; }
  bool IsIntegral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool IsNumber() const { return IsIntegral() || kind_ == Kind::kFloat; }
  // A string marked as needing no escaping (`safe`, `escape`).
  bool IsSafe() const { return safe_; }

  int64_t AsInt() const { return int_; }  // bool or int
  double AsDouble() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(int_); }
  const std::string& Text() const;
  const ListObject& List() const;
  const DictObject& Dict() const;
  NamespaceObject& Namespace() const;
  const FunctionObject& Function() const;
  IteratorObject& Iterator() const;
  LoopObject& Loop() const;
  const std::string& UndefinedMessage() const;  // why an undefined value is undefined
  const Object* Identity() const { return object_.get(); }
  uint32_t Depth() const { return object_ == nullptr ? 0 : object_->depth; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  bool safe_ = false;
  union {
    int64_t int_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct StringObject : Object {
  StringObject(Meter* meter, std::string t) : Object(meter), text(std::move(t)) {
    Charge(sizeof(*this) + text.capacity());
  }
  std::string text;
};

// What Python type a sequence shows itself as.
enum class ListType : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems };

struct ListObject : Object {
  using Object::Object;
  std::vector<Value> items;
  ListType type = ListType::kList;
  std::string label;  // range: how it prints; kGroupLabel: a tuple of groupby
};

inline constexpr char kGroupLabel[] = "group";

// Insertion-ordered; finds keys as Python does (1, 1.0 and True are one key).
struct DictObject : Object {
  using Object::Object;
  const Value* Find(const Value& key) const;
  const Value* Find(const std::string& key) const;
  void Set(Value key, Value value);

  std::vector<std::pair<Value, Value>> entries;

 private:
  ptrdiff_t IndexOf(const Value& key) const;
  std::unordered_multimap<uint64_t, size_t> index_;  // hash to entry, once there are many
};

struct NamespaceObject : Object {
  using Object::Object;
  Value* Find(const std::string& name);
  std::vector<std::pair<std::string, Value>> fields;
};

// A builtin (bound to `self` when a method) or, when derived, a macro.
struct FunctionObject : Object {
  FunctionObject(Meter* meter, std::string n, Builtin c, Value s)
      : Object(meter), name(std::move(n)), call(c), self(std::move(s)) {
    Charge(sizeof(*this) + name.size());
  }
  std::string name;
  Builtin call;  // null: a macro
  Value self;
};

// A Python generator: one pass, no length, always true.
struct IteratorObject : Object {
  using Object::Object;
  std::function<StatusOr<bool>(Value*)> next;  // false: exhausted
  const char* type = "generator";
};

class LoopObject : public Object, public std::enable_shared_from_this<LoopObject> {
 public:
  using Object::Object;
  // The attribute, or kAbsent when loops have none of that name.
  virtual StatusOr<Value> Attribute(Runtime& rt, const std::string& name) = 0;
};

const char* TypeName(const Value& v);  // Python's: "str", "NoneType", ...
bool Truth(const Value& v);
// Whether the value may be a dict key, and a hash that is equal for equal keys.
bool IsHashable(const Value& v);
uint64_t HashOf(const Value& v);
// Equality without step accounting, for hashable keys.
bool SameKey(const Value& a, const Value& b);
// Exact comparison of an integer with a double: -1, 0, 1; 2 when the double is NaN.
int CompareIntDouble(int64_t i, double d);
bool NumbersEqual(const Value& a, const Value& b);

}  // namespace choir::tmpl
