// What one rendering has: limits, the making of values, the line for messages. Owned by the
// Interpreter; operations, filters, tests and methods get it as their first argument. One thread.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/text/chat_template.h"
#include "router/text/template/value.h"

namespace choir::tmpl {

constexpr uint32_t kValueDepthMax = 200;  // nesting of values: recursion over them is safe

class Runtime {
 public:
  Runtime(const TemplateLimits& limits, const Clock& clock) : limits_(limits), clock_(clock) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Accounts for n units of work and looks at the memory in use.
  Status Step(uint64_t n = 1);
  // Work on that many bytes of text.
  Status StepBytes(uint64_t bytes) { return Step(1 + bytes / 1024); }
  // Whether a text of that many bytes, or that many values, may be made at all.
  Status Fits(uint64_t bytes) const;
  Status FitsValues(uint64_t count) const { return Fits(count * sizeof(Value)); }

  Value String(std::string text, bool safe = false);
  StatusOr<Value> List(std::vector<Value> items, ListType type = ListType::kList,
                       std::string label = "");
  std::shared_ptr<DictObject> NewDict() { return std::make_shared<DictObject>(&meter_); }
  StatusOr<Value> Finish(std::shared_ptr<DictObject> dict);
  Value Undefined(std::string message);
  Value NewNamespace();
  Value Function(std::string name, Builtin call, Value self = Value());
  // `depth` is that of the deepest value the iterator holds: chains of iterators are bounded like
  // nested lists.
  StatusOr<Value> Iterator(uint32_t depth, std::function<StatusOr<bool>(Value*)> next,
                           const char* type = "generator");
  // Drops what the objects hold at the end, so that cycles through them are freed.
  void ReleaseAtEnd(std::function<void()> release) { releases_.push_back(std::move(release)); }

  Meter* meter() { return &meter_; }
  const Clock& clock() const { return clock_; }
  const TemplateLimits& limits() const { return limits_; }

  int line = 0;         // of the code that runs
  bool raised = false;  // the error is raise_exception's: its message stands alone

 private:
  const TemplateLimits limits_;
  const Clock& clock_;
  uint64_t steps_ = 0;
  Meter meter_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
  std::vector<std::function<void()>> releases_;
};

// Text under construction that may not outgrow the output limit.
class Sink {
 public:
  explicit Sink(Runtime& rt) : rt_(rt) {}
  Status Add(std::string_view text) {
    if (out_.size() + text.size() > rt_.limits().output_bytes_max) return rt_.Fits(UINT64_MAX);
    out_.append(text);
    return {};
  }
  Status AddTimes(char c, uint64_t n) {
    CHOIR_RETURN_IF_ERROR(rt_.Fits(n));
    return Add(std::string(n, c));
  }
  const std::string& text() const { return out_; }
  std::string Take() { return std::move(out_); }

 private:
  Runtime& rt_;
  std::string out_;
};

// Steps through a value as Python's iter() does: items, keys, characters.
class Cursor {
 public:
  Cursor() = default;
  static StatusOr<Cursor> Over(const Value& v);
  StatusOr<bool> Next(Runtime& rt, Value* item);
  // Items in all, or -1 when only running out tells.
  int64_t Length() const;

 private:
  Value source_;
  size_t at_ = 0;
};

StatusOr<std::vector<Value>> ToVector(Runtime& rt, const Value& v);

// The arguments of a builtin by position or name; absent ones are kAbsent.
StatusOr<std::vector<Value>> Bind(const char* who, const Args& args,
                                  std::initializer_list<const char*> names, size_t required = 0);
// The same for those that take no keyword arguments.
StatusOr<std::vector<Value>> BindPositional(const char* who, const Args& args,
                                            std::initializer_list<const char*> names,
                                            size_t required = 0);
// The depth of the deepest of them.
uint32_t DepthOf(const Value& v, const Args& args);
StatusOr<int64_t> IntArg(const Value& v, const char* what, int64_t absent);
inline bool BoolArg(const Value& v, bool absent) { return v.Is(Kind::kAbsent) ? absent : Truth(v); }

}  // namespace choir::tmpl
