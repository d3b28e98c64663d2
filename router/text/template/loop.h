// The `loop` of a for statement.
#pragma once

#include <string>
#include <vector>

#include "router/text/template/interpreter.h"

namespace choir::tmpl {

// Walks the items, applying the statement's `if`, one ahead at most unless the length is asked for,
// so a condition sees what the body has changed.
class ForLoop : public LoopObject {
 public:
  ForLoop(Interpreter* interpreter, const ForStmt* node, ScopePtr scope, int64_t level);

  Status Start(const Value& items);
  // Moves to the next item; false at the end.
  StatusOr<bool> Advance();
  const Value& item() const { return current_; }
  StatusOr<Value> Attribute(Runtime& rt, const std::string& name) override;

  const ForStmt& node() const { return *node_; }
  const ScopePtr& scope() const { return scope_; }  // around the loop
  int64_t level() const { return level_; }

 private:
  static StatusOr<Value> Cycle(Runtime& rt, const Value& self, const Args& args);
  static StatusOr<Value> Changed(Runtime& rt, const Value& self, const Args& args);
  StatusOr<bool> Pull(Value* item);
  StatusOr<bool> HasNext();
  StatusOr<int64_t> LoopLength();

  Interpreter* interpreter_;
  const ForStmt* node_;
  ScopePtr scope_;
  const int64_t level_;
  Cursor cursor_;
  int64_t index_ = -1;
  int64_t length_ = -1;       // -1: not known yet
  std::vector<Value> ahead_;  // pulled, from next_ on
  size_t next_ = 0;
  Value previous_, current_;
  Value changed_ = Value::Absent();
};

}  // namespace choir::tmpl
