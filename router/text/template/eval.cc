// Expressions.
#include "router/text/template/filters.h"
#include "router/text/template/globals.h"
#include "router/text/template/interpreter.h"
#include "router/text/template/ops.h"

namespace choir::tmpl {
namespace {

constexpr uint32_t kNestingPerCall = 8;  // statements and expressions a call's depth allows for

template <typename T>
const T& As(const Expr& expr) {
  return static_cast<const T&>(expr);
}

}  // namespace

Status Interpreter::Enter() {
  if (depth_ >= rt_.limits().depth_max * kNestingPerCall) {
    return InvalidArgument("the template nests too deep");
  }
  return rt_.Step();
}

StatusOr<Value> Interpreter::Eval(const Expr& expr, const ScopePtr& scope) {
  CHOIR_RETURN_IF_ERROR(Enter());
  rt_.line = expr.line;
  ++depth_;
  StatusOr<Value> value = EvalNode(expr, scope);
  --depth_;
  return value;
}

StatusOr<Value> Interpreter::EvalNode(const Expr& expr, const ScopePtr& scope) {
  switch (expr.kind) {
    case ExprKind::kConst:
      return As<ConstExpr>(expr).value;
    case ExprKind::kTooLarge:
      return InvalidArgument("integer {} does not fit in 64 bits", As<TooLargeExpr>(expr).digits);
    case ExprKind::kName:
      return Lookup(As<NameExpr>(expr).symbol, scope);
    case ExprKind::kSequence:
      return EvalSequence(As<SequenceExpr>(expr), scope);
    case ExprKind::kDict:
      return EvalDict(As<DictExpr>(expr), scope);
    case ExprKind::kCond:
      return EvalCond(As<CondExpr>(expr), scope);
    case ExprKind::kLogic:
      return EvalLogic(As<LogicExpr>(expr), scope);
    case ExprKind::kNot: {
      CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*As<NotExpr>(expr).operand, scope));
      return Value::Bool(!Truth(v));
    }
    case ExprKind::kCompare:
      return EvalCompare(As<CompareExpr>(expr), scope);
    case ExprKind::kMath:
      return EvalMath(As<MathExpr>(expr), scope);
    case ExprKind::kConcat:
      return EvalConcat(As<ConcatExpr>(expr), scope);
    case ExprKind::kUnary: {
      CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*As<UnaryExpr>(expr).operand, scope));
      return Sign(v, As<UnaryExpr>(expr).negate);
    }
    case ExprKind::kAttr: {
      CHOIR_ASSIGN_OR_RETURN(const Value object, Eval(*As<AttrExpr>(expr).object, scope));
      return GetAttribute(rt_, object, As<AttrExpr>(expr).name);
    }
    case ExprKind::kItem:
      return EvalItem(As<ItemExpr>(expr), scope);
    case ExprKind::kCall:
      return EvalCall(As<CallExpr>(expr), scope);
    case ExprKind::kFilter:
      return EvalFilter(As<FilterExpr>(expr), nullptr, scope);
    case ExprKind::kTest:
      return EvalTest(As<TestExpr>(expr), scope);
    case ExprKind::kSlice:
    case ExprKind::kNamespaceRef:
      break;
  }
  return InvalidArgument("this expression has no value");
}

Value Interpreter::Lookup(int symbol, const ScopePtr& scope) {
  if (const Value* v = scope->Find(symbol); v != nullptr && !v->Is(Kind::kAbsent)) return *v;
  const std::string& name = program_.symbols[static_cast<size_t>(symbol)];
  if (const Builtin global = FindGlobal(name); global != nullptr) return rt_.Function(name, global);
  return rt_.Undefined("'" + name + "' is undefined");
}

StatusOr<Value> Interpreter::EvalSequence(const SequenceExpr& node, const ScopePtr& scope) {
  std::vector<Value> items;
  items.reserve(node.items.size());
  for (const ExprPtr& item : node.items) {
    CHOIR_ASSIGN_OR_RETURN(Value v, Eval(*item, scope));
    items.push_back(std::move(v));
  }
  return rt_.List(std::move(items), node.type);
}

StatusOr<Value> Interpreter::EvalDict(const DictExpr& node, const ScopePtr& scope) {
  auto dict = rt_.NewDict();
  for (const auto& [key_expr, value_expr] : node.items) {
    CHOIR_ASSIGN_OR_RETURN(Value key, Eval(*key_expr, scope));
    CHOIR_ASSIGN_OR_RETURN(Value value, Eval(*value_expr, scope));
    if (!IsHashable(key)) return InvalidArgument("unhashable type: '{}'", TypeName(key));
    dict->Set(std::move(key), std::move(value));
  }
  return rt_.Finish(std::move(dict));
}

StatusOr<Value> Interpreter::EvalCond(const CondExpr& node, const ScopePtr& scope) {
  CHOIR_ASSIGN_OR_RETURN(const Value test, Eval(*node.test, scope));
  if (Truth(test)) return Eval(*node.then, scope);
  if (node.otherwise != nullptr) return Eval(*node.otherwise, scope);
  return rt_.Undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and has no else", node.line));
}

StatusOr<Value> Interpreter::EvalLogic(const LogicExpr& node, const ScopePtr& scope) {
  Value v;
  for (const ExprPtr& operand : node.operands) {
    CHOIR_ASSIGN_OR_RETURN(v, Eval(*operand, scope));
    if (Truth(v) == node.is_or) break;
  }
  return v;
}

StatusOr<Value> Interpreter::EvalCompare(const CompareExpr& node, const ScopePtr& scope) {
  CHOIR_ASSIGN_OR_RETURN(Value left, Eval(*node.first, scope));
  bool result = true;
  for (const auto& [op, operand] : node.rest) {
    CHOIR_ASSIGN_OR_RETURN(Value right, Eval(*operand, scope));
    CHOIR_ASSIGN_OR_RETURN(result, Compare(rt_, op, left, right));
    if (!result) break;
    left = std::move(right);
  }
  return Value::Bool(result);
}

StatusOr<Value> Interpreter::EvalMath(const MathExpr& node, const ScopePtr& scope) {
  CHOIR_ASSIGN_OR_RETURN(Value left, Eval(*node.first, scope));
  for (const auto& [op, operand] : node.rest) {
    CHOIR_ASSIGN_OR_RETURN(const Value right, Eval(*operand, scope));
    CHOIR_ASSIGN_OR_RETURN(left, Arithmetic(rt_, op, left, right));
    CHOIR_RETURN_IF_ERROR(rt_.Step());
  }
  return left;
}

StatusOr<Value> Interpreter::EvalConcat(const ConcatExpr& node, const ScopePtr& scope) {
  Sink out(rt_);
  for (const ExprPtr& item : node.items) {
    CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*item, scope));
    CHOIR_RETURN_IF_ERROR(AddText(rt_, v, &out));
  }
  return rt_.String(out.Take());
}

StatusOr<Value> Interpreter::EvalItem(const ItemExpr& node, const ScopePtr& scope) {
  CHOIR_ASSIGN_OR_RETURN(const Value object, Eval(*node.object, scope));
  if (node.index->kind != ExprKind::kSlice) {
    CHOIR_ASSIGN_OR_RETURN(const Value index, Eval(*node.index, scope));
    return GetItem(rt_, object, index);
  }
  const auto& slice = As<SliceExpr>(*node.index);
  Value bounds[3];
  const Expr* exprs[3] = {slice.start.get(), slice.stop.get(), slice.step.get()};
  for (int i = 0; i < 3; ++i) {
    bounds[i] = Value::None();
    if (exprs[i] == nullptr) continue;
    CHOIR_ASSIGN_OR_RETURN(bounds[i], Eval(*exprs[i], scope));
  }
  return Slice(rt_, object, bounds[0], bounds[1], bounds[2]);
}

StatusOr<Args> Interpreter::EvalArgs(const CallArgs& args, const ScopePtr& scope) {
  Args values;
  for (const ExprPtr& arg : args.positional) {
    CHOIR_ASSIGN_OR_RETURN(Value v, Eval(*arg, scope));
    values.positional.push_back(std::move(v));
  }
  for (const auto& [name, arg] : args.named) {
    CHOIR_ASSIGN_OR_RETURN(Value v, Eval(*arg, scope));
    values.named.emplace_back(name, std::move(v));
  }
  if (args.star != nullptr) {
    CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*args.star, scope));
    CHOIR_ASSIGN_OR_RETURN(const auto more, ToVector(rt_, v));
    values.positional.insert(values.positional.end(), more.begin(), more.end());
  }
  if (args.star_star != nullptr) {
    CHOIR_ASSIGN_OR_RETURN(const Value v, Eval(*args.star_star, scope));
    if (!v.Is(Kind::kDict)) return InvalidArgument("the argument after ** must be a mapping");
    for (const auto& [key, value] : v.Dict().entries) {
      if (!key.IsString()) return InvalidArgument("keywords must be strings");
      for (const auto& given : values.named) {
        if (given.first == key.Text())
          return InvalidArgument("the argument '{}' is given twice", key.Text());
      }
      values.named.emplace_back(key.Text(), value);
    }
  }
  return values;
}

StatusOr<Value> Interpreter::EvalCall(const CallExpr& node, const ScopePtr& scope) {
  CHOIR_ASSIGN_OR_RETURN(const Value callee, Eval(*node.callee, scope));
  CHOIR_ASSIGN_OR_RETURN(const Args args, EvalArgs(node.args, scope));
  rt_.line = node.line;
  return Call(callee, args);
}

StatusOr<Value> Interpreter::Call(const Value& callee, const Args& args) {
  if (callee.IsUndefined()) return UndefinedError(callee);
  if (!callee.Is(Kind::kFunction) && !callee.Is(Kind::kLoop)) {
    return InvalidArgument("'{}' object is not callable", TypeName(callee));
  }
  if (callee.Is(Kind::kFunction) && callee.Function().call != nullptr) {
    const FunctionObject& function = callee.Function();
    return function.call(rt_, function.self, args);
  }
  if (calls_ >= rt_.limits().depth_max) {
    return InvalidArgument("calls nest deeper than {}", rt_.limits().depth_max);
  }
  ++calls_;
  StatusOr<Value> result =
      callee.Is(Kind::kLoop) ? CallLoop(callee, args)
                             : CallMacro(static_cast<const MacroObject&>(callee.Function()), args);
  --calls_;
  return result;
}

StatusOr<Value> Interpreter::EvalFilter(const FilterExpr& node, const Value* block,
                                        const ScopePtr& scope) {
  Value operand;
  if (node.operand == nullptr) {
    operand = block == nullptr ? Value() : *block;
  } else if (block != nullptr && node.operand->kind == ExprKind::kFilter) {
    CHOIR_ASSIGN_OR_RETURN(operand, EvalFilter(As<FilterExpr>(*node.operand), block, scope));
  } else {
    CHOIR_ASSIGN_OR_RETURN(operand, Eval(*node.operand, scope));
  }
  CHOIR_ASSIGN_OR_RETURN(const Args args, EvalArgs(node.args, scope));
  rt_.line = node.line;
  if (node.filter == nullptr) return InvalidArgument("there is no filter '{}'", node.name);
  return node.filter(rt_, operand, args);
}

StatusOr<Value> Interpreter::EvalTest(const TestExpr& node, const ScopePtr& scope) {
  CHOIR_ASSIGN_OR_RETURN(const Value operand, Eval(*node.operand, scope));
  CHOIR_ASSIGN_OR_RETURN(const Args args, EvalArgs(node.args, scope));
  rt_.line = node.line;
  if (node.test == nullptr) return InvalidArgument("there is no test '{}'", node.name);
  return node.test(rt_, operand, args);
}

}  // namespace choir::tmpl
