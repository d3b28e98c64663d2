// Runs a Program: one object for one rendering. Bounded by TemplateLimits in steps, memory, output
// and nesting, so a hostile template ends in an error. One thread.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "router/text/template/ast.h"
#include "router/text/template/runtime.h"

namespace choir::tmpl {

// Variables by symbol. An inner scope reads through to its parent and sets only its own.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> p) : parent(std::move(p)) {}
  Value* Find(int symbol);
  void Set(int symbol, Value value);

  std::shared_ptr<Scope> parent;
  std::vector<std::pair<int, Value>> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

struct MacroObject : FunctionObject {
  MacroObject(Meter* meter, const MacroStmt* m, ScopePtr s)
      : FunctionObject(meter, m->name, nullptr, Value()), macro(m), scope(std::move(s)) {}
  const MacroStmt* macro;
  ScopePtr scope;  // where it was defined
};

class Interpreter {
 public:
  Interpreter(const Program& program, const TemplateLimits& limits, const Clock& clock);
  ~Interpreter();

  Runtime& runtime() { return rt_; }
  // A variable of the template, before Run.
  void Define(int symbol, Value value) { globals_->Set(symbol, std::move(value)); }
  // The text, or InvalidArgument with the line (raise_exception's message stands alone).
  StatusOr<std::string> Run();

 private:
  friend class ForLoop;
  enum class Flow : uint8_t { kNormal, kBreak, kContinue };

  // --- statements (exec.cc)
  StatusOr<Flow> Exec(const Body& body, const ScopePtr& scope, Sink* out);
  StatusOr<Flow> ExecOne(const Stmt& statement, const ScopePtr& scope, Sink* out);
  StatusOr<Flow> ExecIf(const IfStmt& node, const ScopePtr& scope, Sink* out);
  StatusOr<Flow> ExecWith(const WithStmt& node, const ScopePtr& scope, Sink* out);
  Status ExecSetBlock(const SetBlockStmt& node, const ScopePtr& scope);
  Status ExecCallBlock(const CallBlockStmt& node, const ScopePtr& scope, Sink* out);
  Status ExecFilterBlock(const FilterBlockStmt& node, const ScopePtr& scope, Sink* out);
  StatusOr<Flow> ExecFor(const ForStmt& node, const ScopePtr& scope, Sink* out);
  // One loop over `items`; `level` counts recursive loops inside one another.
  StatusOr<Flow> RunLoop(const ForStmt& node, const ScopePtr& scope, const Value& items,
                         int64_t level, Sink* out);
  StatusOr<Value> CallLoop(const Value& loop, const Args& args);
  Status Assign(const Expr& target, const Value& value, const ScopePtr& scope);
  Value NewMacro(const MacroStmt& macro, const ScopePtr& scope);
  StatusOr<Value> CallMacro(const MacroObject& function, const Args& args);
  Status BindParameters(const MacroObject& function, const Args& args, const ScopePtr& scope);

  // --- expressions (eval.cc)
  StatusOr<Value> Eval(const Expr& expr, const ScopePtr& scope);
  StatusOr<Value> EvalNode(const Expr& expr, const ScopePtr& scope);
  Value Lookup(int symbol, const ScopePtr& scope);
  StatusOr<Value> EvalSequence(const SequenceExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalDict(const DictExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalCond(const CondExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalLogic(const LogicExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalCompare(const CompareExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalMath(const MathExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalConcat(const ConcatExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalItem(const ItemExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalCall(const CallExpr& node, const ScopePtr& scope);
  StatusOr<Value> EvalFilter(const FilterExpr& node, const Value* block, const ScopePtr& scope);
  StatusOr<Value> EvalTest(const TestExpr& node, const ScopePtr& scope);
  StatusOr<Args> EvalArgs(const CallArgs& args, const ScopePtr& scope);
  StatusOr<Value> Call(const Value& callee, const Args& args);
  Status Enter();

  const Program& program_;
  Runtime rt_;  // outlives every value below
  ScopePtr globals_;
  uint32_t depth_ = 0;  // statements and expressions being run, inside one another
  uint32_t calls_ = 0;  // macros and loops being called
};

}  // namespace choir::tmpl
