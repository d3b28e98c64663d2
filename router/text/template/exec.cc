// Statements, macros and loops.
#include "router/text/template/interpreter.h"
#include "router/text/template/loop.h"
#include "router/text/template/ops.h"

namespace choir::tmpl {

Value* Scope::Find(int symbol) {
  for (Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (auto& [s, v] : scope->variables) {
      if (s == symbol) return &v;
    }
  }
  return nullptr;
}

void Scope::Set(int symbol, Value value) {
  for (auto& [s, v] : variables) {
    if (s != symbol) continue;
    v = std::move(value);
    return;
  }
  variables.emplace_back(symbol, std::move(value));
}

Interpreter::Interpreter(const Program& program, const TemplateLimits& limits, const Clock& clock)
    : program_(program), rt_(limits, clock), globals_(std::make_shared<Scope>(nullptr)) {}

Interpreter::~Interpreter() {
  // A macro set in the scope it was defined in is a cycle.
  globals_->variables.clear();
}

StatusOr<std::string> Interpreter::Run() {
  Sink out(rt_);
  const auto flow = Exec(program_.body, globals_, &out);
  if (flow.ok()) return out.Take();
  if (rt_.raised) return flow.status();
  return InvalidArgument("chat template, line {}: {}", rt_.line, MessageOf(flow.status()));
}

StatusOr<Interpreter::Flow> Interpreter::Exec(const Body& body, const ScopePtr& scope, Sink* out) {
  for (const StmtPtr& statement : body) {
    CHOIR_RETURN_IF_ERROR(Enter());
    rt_.line = statement->line;
    ++depth_;
    const auto flow = ExecOne(*statement, scope, out);
    --depth_;
    if (!flow.ok() || *flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

StatusOr<Interpreter::Flow> Interpreter::ExecOne(const Stmt& statement, const ScopePtr& scope,
                                                 Sink* out) {
  Status status;
  switch (statement.kind) {
    case StmtKind::kText:
      status = out->Add(static_cast<const TextStmt&>(statement).text);
      break;
    case StmtKind::kOutput: {
      CHOIR_ASSIGN_OR_RETURN(const Value v,
                             Eval(*static_cast<const OutputStmt&>(statement).expr, scope));
      status = AddText(rt_, v, out);
      break;
    }
    case StmtKind::kIf:
      return ExecIf(static_cast<const IfStmt&>(statement), scope, out);
    case StmtKind::kFor:
      return ExecFor(static_cast<const ForStmt&>(statement), scope, out);
    case StmtKind::kSet: {
      const auto& node = static_cast<const SetStmt&>(statement);
      CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*node.value, scope));
      status = Assign(*node.target, v, scope);
      break;
    }
    case StmtKind::kSetBlock:
      status = ExecSetBlock(static_cast<const SetBlockStmt&>(statement), scope);
      break;
    case StmtKind::kMacro: {
      const auto& macro = static_cast<const MacroStmt&>(statement);
      scope->Set(macro.symbol, NewMacro(macro, scope));
      break;
    }
    case StmtKind::kCallBlock:
      status = ExecCallBlock(static_cast<const CallBlockStmt&>(statement), scope, out);
      break;
    case StmtKind::kFilterBlock:
      status = ExecFilterBlock(static_cast<const FilterBlockStmt&>(statement), scope, out);
      break;
    case StmtKind::kWith:
      return ExecWith(static_cast<const WithStmt&>(statement), scope, out);
    case StmtKind::kScope:
      return Exec(static_cast<const ScopeStmt&>(statement).body, std::make_shared<Scope>(scope),
                  out);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  if (!status.ok()) return status;
  return Flow::kNormal;
}

StatusOr<Interpreter::Flow> Interpreter::ExecIf(const IfStmt& node, const ScopePtr& scope,
                                                Sink* out) {
  for (const auto& [test, body] : node.branches) {
    CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*test, scope));
    if (Truth(v)) return Exec(body, scope, out);
  }
  return Exec(node.otherwise, scope, out);
}

StatusOr<Interpreter::Flow> Interpreter::ExecWith(const WithStmt& node, const ScopePtr& scope,
                                                  Sink* out) {
  const auto inner = std::make_shared<Scope>(scope);
  for (const auto& [target, expr] : node.bindings) {  // the values see the outer variables only
    CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*expr, scope));
    CHOIR_RETURN_IF_ERROR(Assign(*target, v, inner));
  }
  return Exec(node.body, inner, out);
}

Status Interpreter::ExecSetBlock(const SetBlockStmt& node, const ScopePtr& scope) {
  Sink text(rt_);
  const auto inner = std::make_shared<Scope>(scope);
  CHOIR_RETURN_IF_ERROR(Exec(node.body, inner, &text).status());
  Value v = rt_.String(text.Take());
  if (node.filter != nullptr) {
    CHOIR_ASSIGN_OR_RETURN(v, EvalFilter(static_cast<const FilterExpr&>(*node.filter), &v, scope));
  }
  return Assign(*node.target, v, scope);
}

Status Interpreter::ExecFilterBlock(const FilterBlockStmt& node, const ScopePtr& scope, Sink* out) {
  Sink text(rt_);
  const auto inner = std::make_shared<Scope>(scope);
  CHOIR_RETURN_IF_ERROR(Exec(node.body, inner, &text).status());
  const Value block = rt_.String(text.Take());
  CHOIR_ASSIGN_OR_RETURN(const Value v,
                         EvalFilter(static_cast<const FilterExpr&>(*node.filter), &block, inner));
  return AddText(rt_, v, out);
}

Status Interpreter::ExecCallBlock(const CallBlockStmt& node, const ScopePtr& scope, Sink* out) {
  const auto& call = static_cast<const CallExpr&>(*node.call);
  CHOIR_ASSIGN_OR_RETURN(const Value callee, Eval(*call.callee, scope));
  CHOIR_ASSIGN_OR_RETURN(Args args, EvalArgs(call.args, scope));
  args.named.emplace_back("caller", NewMacro(*node.block, scope));
  CHOIR_ASSIGN_OR_RETURN(const Value v, Call(callee, args));
  return AddText(rt_, v, out);
}

Status Interpreter::Assign(const Expr& target, const Value& value, const ScopePtr& scope) {
  CHOIR_RETURN_IF_ERROR(rt_.Step());
  if (target.kind == ExprKind::kName) {
    scope->Set(static_cast<const NameExpr&>(target).symbol, value);
    return {};
  }
  if (target.kind == ExprKind::kNamespaceRef) {
    const auto& ref = static_cast<const NamespaceRefExpr&>(target);
    const Value space = Lookup(ref.symbol, scope);
    if (!space.Is(Kind::kNamespace))
      return InvalidArgument("cannot assign attribute on non-namespace object");
    if (ref.field.starts_with('_')) {
      return InvalidArgument("a namespace cannot have the attribute '{}'", ref.field);
    }
    if (Value* field = space.Namespace().Find(ref.field); field != nullptr) {
      *field = value;
    } else {
      space.Namespace().fields.emplace_back(ref.field, value);
      space.Namespace().Charge(sizeof(Value) + 64);
    }
    return {};
  }
  const auto& tuple = static_cast<const SequenceExpr&>(target);
  CHOIR_ASSIGN_OR_RETURN(const auto values, ToVector(rt_, value));
  if (values.size() != tuple.items.size()) {
    return InvalidArgument("expected {} values to unpack, got {}", tuple.items.size(),
                           values.size());
  }
  for (size_t i = 0; i < values.size(); ++i) {
    CHOIR_RETURN_IF_ERROR(Assign(*tuple.items[i], values[i], scope));
  }
  return {};
}

// Scopes that macros hold are emptied at the end: they may hold those macros.
Value Interpreter::NewMacro(const MacroStmt& macro, const ScopePtr& scope) {
  rt_.ReleaseAtEnd([scope] { std::vector<std::pair<int, Value>>().swap(scope->variables); });
  auto object = std::make_shared<MacroObject>(rt_.meter(), &macro, scope);
  object->Charge(256);
  return Value::Of(Kind::kFunction, std::move(object));
}

Status Interpreter::BindParameters(const MacroObject& function, const Args& args,
                                   const ScopePtr& scope) {
  const MacroStmt& macro = *function.macro;
  const size_t count = macro.parameters.size();
  const size_t first_default = count - macro.defaults.size();
  std::vector<bool> used(args.named.size(), false);
  // A default that names a parameter not bound yet does not see an outer variable.
  for (const auto& [symbol, name] : macro.parameters) scope->Set(symbol, Value::Absent());
  for (size_t i = 0; i < count; ++i) {
    const auto& [symbol, name] = macro.parameters[i];
    Value v = i < args.positional.size() ? args.positional[i] : Value::Absent();
    for (size_t k = 0; v.Is(Kind::kAbsent) && k < args.named.size(); ++k) {
      if (args.named[k].first != name) continue;
      v = args.named[k].second;
      used[k] = true;
    }
    if (v.Is(Kind::kAbsent) && i >= first_default) {
      CHOIR_ASSIGN_OR_RETURN(v, Eval(*macro.defaults[i - first_default], scope));
    }
    if (v.Is(Kind::kAbsent)) v = rt_.Undefined("parameter '" + name + "' was not provided");
    scope->Set(symbol, std::move(v));
  }
  if (macro.uses_caller) scope->Set(program_.caller_symbol, rt_.Undefined("No caller defined"));
  auto rest = rt_.NewDict();
  for (size_t k = 0; k < args.named.size(); ++k) {
    const auto& [name, value] = args.named[k];
    if (used[k]) continue;
    if (macro.uses_caller && name == "caller") {
      scope->Set(program_.caller_symbol, value);
    } else if (macro.uses_kwargs) {
      rest->Set(rt_.String(name), value);
    } else {
      return InvalidArgument("macro '{}' takes no keyword argument '{}'", macro.name, name);
    }
  }
  if (macro.uses_kwargs) {
    CHOIR_ASSIGN_OR_RETURN(Value kwargs, rt_.Finish(std::move(rest)));
    scope->Set(program_.kwargs_symbol, std::move(kwargs));
  }
  if (!macro.uses_varargs && args.positional.size() > count) {
    return InvalidArgument("macro '{}' takes not more than {} argument(s)", macro.name, count);
  }
  if (!macro.uses_varargs) return {};
  std::vector<Value> more(
      args.positional.begin() + static_cast<ptrdiff_t>(std::min(count, args.positional.size())),
      args.positional.end());
  CHOIR_ASSIGN_OR_RETURN(Value varargs, rt_.List(std::move(more), ListType::kTuple));
  scope->Set(program_.varargs_symbol, std::move(varargs));
  return {};
}

StatusOr<Value> Interpreter::CallMacro(const MacroObject& function, const Args& args) {
  const auto scope = std::make_shared<Scope>(function.scope);
  CHOIR_RETURN_IF_ERROR(BindParameters(function, args, scope));
  Sink out(rt_);
  CHOIR_RETURN_IF_ERROR(Exec(function.macro->body, scope, &out).status());
  return rt_.String(out.Take());
}

}  // namespace choir::tmpl
