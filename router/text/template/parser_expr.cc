// Expressions, lowest precedence first. `**` groups from the left and a sign binds tighter than it,
// which is Jinja's way and not Python's.
#include "router/text/template/filters.h"
#include "router/text/template/parser_impl.h"

namespace choir::tmpl {

Status Parser::CheckChain(int length) const {
  if (length < kParseChainMax) return {};
  return Fail(Now().line, "more than {} operations in a row on one value", kParseChainMax);
}

StatusOr<ExprPtr> Parser::ParseExpression(bool with_condition) {
  if (++depth_ > kParseDepthMax) {
    return Fail(Now().line, "expressions nest deeper than {}", kParseDepthMax);
  }
  const int line = Now().line;
  const size_t unknown_before = unknown_.size();
  CHOIR_ASSIGN_OR_RETURN(ExprPtr expr, ParseOr());
  for (int n = 0; with_condition && IsName("if"); ++n) {
    CHOIR_RETURN_IF_ERROR(CheckChain(n));
    Take();
    // Either side may stay unused: an unknown filter in them is an error only when it is reached.
    unknown_.resize(unknown_before);
    auto cond = std::make_unique<CondExpr>(line);
    cond->then = std::move(expr);
    const bool conditional = std::exchange(conditional_, true);
    CHOIR_ASSIGN_OR_RETURN(cond->test, ParseOr());
    if (SkipName("else")) {
      CHOIR_ASSIGN_OR_RETURN(cond->otherwise, ParseExpression());
    }
    conditional_ = conditional;
    expr = std::move(cond);
  }
  --depth_;
  return expr;
}

StatusOr<ExprPtr> Parser::ParseTuple(bool with_condition, std::string_view ends_at,
                                     bool in_parentheses) {
  auto tuple = std::make_unique<SequenceExpr>(Now().line, ListType::kTuple);
  bool is_tuple = false;
  for (;;) {
    if (Now().kind == TokenKind::kOutputEnd || Now().kind == TokenKind::kBlockEnd ||
        IsOperator(")") || (!ends_at.empty() && IsName(ends_at))) {
      break;
    }
    CHOIR_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(with_condition));
    tuple->items.push_back(std::move(item));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->items.empty()) return std::move(tuple->items.front());
  if (!in_parentheses) return Unexpected("an expression");
  return tuple;
}

StatusOr<ExprPtr> Parser::ParseOr() {
  const int line = Now().line;
  CHOIR_ASSIGN_OR_RETURN(ExprPtr first, ParseAnd());
  if (!IsName("or")) return first;
  auto node = std::make_unique<LogicExpr>(line, true);
  node->operands.push_back(std::move(first));
  while (SkipName("or")) {
    CHOIR_ASSIGN_OR_RETURN(ExprPtr next, ParseAnd());
    node->operands.push_back(std::move(next));
  }
  return node;
}

StatusOr<ExprPtr> Parser::ParseAnd() {
  const int line = Now().line;
  CHOIR_ASSIGN_OR_RETURN(ExprPtr first, ParseNot());
  if (!IsName("and")) return first;
  auto node = std::make_unique<LogicExpr>(line, false);
  node->operands.push_back(std::move(first));
  while (SkipName("and")) {
    CHOIR_ASSIGN_OR_RETURN(ExprPtr next, ParseNot());
    node->operands.push_back(std::move(next));
  }
  return node;
}

StatusOr<ExprPtr> Parser::ParseNot() {
  const int line = Now().line;
  int nots = 0;
  while (SkipName("not")) CHOIR_RETURN_IF_ERROR(CheckChain(nots++));
  CHOIR_ASSIGN_OR_RETURN(ExprPtr expr, ParseCompare());
  for (; nots > 0; --nots) expr = std::make_unique<NotExpr>(line, std::move(expr));
  return expr;
}

StatusOr<ExprPtr> Parser::ParseCompare() {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEq}, {"!=", CompareOp::kNe}, {"<=", CompareOp::kLe},
      {">=", CompareOp::kGe}, {"<", CompareOp::kLt},  {">", CompareOp::kGt}};
  auto node = std::make_unique<CompareExpr>(Now().line);
  CHOIR_ASSIGN_OR_RETURN(node->first, ParseMath(0));
  for (;;) {
    int op = -1;
    for (const auto& [text, code] : kOps) {
      if (op < 0 && SkipOperator(text)) op = static_cast<int>(code);
    }
    if (op < 0 && SkipName("in")) op = static_cast<int>(CompareOp::kIn);
    if (op < 0 && IsName("not") && Ahead().kind == TokenKind::kName && Ahead().text == "in") {
      Take();
      Take();
      op = static_cast<int>(CompareOp::kNotIn);
    }
    if (op < 0) break;
    CHOIR_ASSIGN_OR_RETURN(ExprPtr right, ParseMath(0));
    node->rest.emplace_back(static_cast<CompareOp>(op), std::move(right));
  }
  if (node->rest.empty()) return std::move(node->first);
  return node;
}

// Level 0: + and -; 1: * / // %; 2: **. `~` lies between 0 and 1.
StatusOr<ExprPtr> Parser::ParseMath(int level) {
  struct Op {
    int level;
    std::string_view text;
    MathOp op;
  };
  static constexpr Op kOps[] = {{0, "+", MathOp::kAdd},       {0, "-", MathOp::kSub},
                                {1, "*", MathOp::kMul},       {1, "/", MathOp::kDiv},
                                {1, "//", MathOp::kFloorDiv}, {1, "%", MathOp::kMod},
                                {2, "**", MathOp::kPow}};
  const auto operand = [&]() -> StatusOr<ExprPtr> {
    if (level == 0) return ParseConcat();
    return level == 1 ? ParseMath(2) : ParseUnary(true);
  };
  auto node = std::make_unique<MathExpr>(Now().line);
  CHOIR_ASSIGN_OR_RETURN(node->first, operand());
  for (bool more = true; more;) {
    more = false;
    for (const Op& op : kOps) {
      if (op.level != level || !SkipOperator(op.text)) continue;
      CHOIR_ASSIGN_OR_RETURN(ExprPtr right, operand());
      node->rest.emplace_back(op.op, std::move(right));
      more = true;
      break;
    }
  }
  if (node->rest.empty()) return std::move(node->first);
  return node;
}

StatusOr<ExprPtr> Parser::ParseConcat() {
  const int line = Now().line;
  CHOIR_ASSIGN_OR_RETURN(ExprPtr first, ParseMath(1));
  if (!IsOperator("~")) return first;
  auto node = std::make_unique<ConcatExpr>(line);
  node->items.push_back(std::move(first));
  while (SkipOperator("~")) {
    CHOIR_ASSIGN_OR_RETURN(ExprPtr next, ParseMath(1));
    node->items.push_back(std::move(next));
  }
  return node;
}

// Filters apply to the signed value (-1|abs is 1) and subscripts to the signed one too.
StatusOr<ExprPtr> Parser::ParseUnary(bool with_filter) {
  if (++depth_ > kParseDepthMax) {
    return Fail(Now().line, "expressions nest deeper than {}", kParseDepthMax);
  }
  const int line = Now().line;
  ExprPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    const bool negate = Take().text == "-";
    CHOIR_ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    node = std::make_unique<UnaryExpr>(line, negate, std::move(operand));
  } else {
    CHOIR_ASSIGN_OR_RETURN(node, ParsePrimary());
  }
  --depth_;
  return ParsePostfix(std::move(node), with_filter);
}

StatusOr<ExprPtr> Parser::ParseNamed() {
  const int line = Now().line;
  const std::string name = Take().text;
  if (name == "true" || name == "True") return std::make_unique<ConstExpr>(line, Value::Bool(true));
  if (name == "false" || name == "False")
    return std::make_unique<ConstExpr>(line, Value::Bool(false));
  if (name == "none" || name == "None") return std::make_unique<ConstExpr>(line, Value::None());
  if (!macros_.empty()) {
    macros_.back().caller |= name == "caller";
    macros_.back().varargs |= name == "varargs";
    macros_.back().kwargs |= name == "kwargs";
  }
  return std::make_unique<NameExpr>(line, Symbol(name));
}

StatusOr<ExprPtr> Parser::ParsePrimary() {
  const Token& token = Now();
  const int line = token.line;
  switch (token.kind) {
    case TokenKind::kName:
      return ParseNamed();
    case TokenKind::kInteger:
      return ParseInteger();
    case TokenKind::kFloat:
      return std::make_unique<ConstExpr>(line, Value::Float(Take().number));
    case TokenKind::kString: {
      std::string text;  // adjacent strings are one
      while (Now().kind == TokenKind::kString) text += Take().text;
      return std::make_unique<ConstExpr>(
          line, Value::Of(Kind::kString, std::make_shared<StringObject>(nullptr, std::move(text))));
    }
    default:
      break;
  }
  if (SkipOperator("(")) {
    CHOIR_ASSIGN_OR_RETURN(ExprPtr inner, ParseTuple(true, "", true));
    CHOIR_RETURN_IF_ERROR(ExpectOperator(")"));
    return inner;
  }
  if (IsOperator("[")) return ParseList();
  if (IsOperator("{")) return ParseDict();
  return Unexpected("an expression");
}

StatusOr<ExprPtr> Parser::ParseList() {
  auto node = std::make_unique<SequenceExpr>(Take().line, ListType::kList);
  while (!IsOperator("]")) {
    if (!node->items.empty()) CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
    if (IsOperator("]")) break;
    CHOIR_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    node->items.push_back(std::move(item));
  }
  Take();
  return node;
}

StatusOr<ExprPtr> Parser::ParseDict() {
  auto node = std::make_unique<DictExpr>(Take().line);
  while (!IsOperator("}")) {
    if (!node->items.empty()) CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
    if (IsOperator("}")) break;
    CHOIR_ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    CHOIR_RETURN_IF_ERROR(ExpectOperator(":"));
    CHOIR_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    node->items.emplace_back(std::move(key), std::move(value));
  }
  Take();
  return node;
}

StatusOr<ExprPtr> Parser::ParsePostfix(ExprPtr node, bool with_filter) {
  bool filters = false;  // after the first filter or test, `.` and `[` no longer apply
  for (int n = 0;; ++n) {
    CHOIR_RETURN_IF_ERROR(CheckChain(n));
    if (!filters && (IsOperator(".") || IsOperator("["))) {
      CHOIR_ASSIGN_OR_RETURN(node, ParseSubscript(std::move(node)));
    } else if (IsOperator("(")) {
      auto call = std::make_unique<CallExpr>(Now().line, std::move(node));
      CHOIR_RETURN_IF_ERROR(ParseArgs(&call->args));
      node = std::move(call);
    } else if (with_filter && IsOperator("|")) {
      filters = true;
      CHOIR_ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
    } else if (with_filter && IsName("is")) {
      filters = true;
      CHOIR_ASSIGN_OR_RETURN(node, ParseTest(std::move(node)));
    } else {
      return node;
    }
  }
}

StatusOr<ExprPtr> Parser::ParseSubscript(ExprPtr node) {
  const int line = Now().line;
  if (SkipOperator(".")) {
    if (Now().kind == TokenKind::kName) {
      return std::make_unique<AttrExpr>(line, std::move(node), Take().text);
    }
    if (Now().kind != TokenKind::kInteger) return Unexpected("a name or a number");
    ExprPtr index = ParseInteger();
    return std::make_unique<ItemExpr>(line, std::move(node), std::move(index));
  }
  Take();
  auto tuple = std::make_unique<SequenceExpr>(line, ListType::kTuple);
  while (!IsOperator("]")) {
    if (!tuple->items.empty()) CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
    CHOIR_ASSIGN_OR_RETURN(ExprPtr index, ParseIndex());
    if (index->kind == ExprKind::kSlice && (!tuple->items.empty() || IsOperator(","))) {
      return Fail(line, "a slice inside a tuple index is not supported");
    }
    tuple->items.push_back(std::move(index));
  }
  Take();
  if (tuple->items.size() != 1) {
    return std::make_unique<ItemExpr>(line, std::move(node), std::move(tuple));
  }
  return std::make_unique<ItemExpr>(line, std::move(node), std::move(tuple->items.front()));
}

StatusOr<ExprPtr> Parser::ParseIndex() {
  auto slice = std::make_unique<SliceExpr>(Now().line);
  if (!IsOperator(":")) {
    CHOIR_ASSIGN_OR_RETURN(slice->start, ParseExpression());
    if (!IsOperator(":")) return std::move(slice->start);
  }
  Take();
  if (!IsOperator(":") && !IsOperator("]") && !IsOperator(",")) {
    CHOIR_ASSIGN_OR_RETURN(slice->stop, ParseExpression());
  }
  if (SkipOperator(":") && !IsOperator("]") && !IsOperator(",")) {
    CHOIR_ASSIGN_OR_RETURN(slice->step, ParseExpression());
  }
  return slice;
}

Status Parser::ParseArgs(CallArgs* args) {
  const int line = Take().line;
  bool first = true;
  for (; !IsOperator(")"); first = false) {
    if (!first) {
      CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
      if (IsOperator(")")) break;
    }
    bool in_order = args->star_star == nullptr;
    if (SkipOperator("*")) {
      in_order &= args->star == nullptr;
      CHOIR_ASSIGN_OR_RETURN(args->star, ParseExpression());
    } else if (SkipOperator("**")) {
      CHOIR_ASSIGN_OR_RETURN(args->star_star, ParseExpression());
    } else if (Now().kind == TokenKind::kName && Ahead().kind == TokenKind::kOperator &&
               Ahead().text == "=") {
      std::string name = Take().text;
      Take();
      CHOIR_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      for (const auto& named : args->named) {
        if (named.first == name) return Fail(line, "the argument '{}' is given twice", name);
      }
      args->named.emplace_back(std::move(name), std::move(value));
    } else {
      in_order &= args->star == nullptr && args->named.empty();
      CHOIR_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      args->positional.push_back(std::move(value));
    }
    if (!in_order) return Fail(line, "the order of the arguments of this call is not valid");
  }
  Take();
  return {};
}

StatusOr<ExprPtr> Parser::ParseFilter(ExprPtr operand) {
  SkipOperator("|");
  const int line = Now().line;
  CHOIR_ASSIGN_OR_RETURN(std::string name, ExpectName());
  while (SkipOperator(".")) {
    CHOIR_ASSIGN_OR_RETURN(std::string part, ExpectName());
    name += "." + part;
  }
  auto node = std::make_unique<FilterExpr>(line, name);
  node->operand = std::move(operand);
  node->filter = FindFilter(name);
  if (node->filter == nullptr && !conditional_) {
    unknown_.push_back(Fail(line, "there is no filter '{}'", name));
  }
  if (IsOperator("(")) CHOIR_RETURN_IF_ERROR(ParseArgs(&node->args));
  return node;
}

StatusOr<ExprPtr> Parser::ParseTest(ExprPtr operand) {
  const int line = Take().line;
  const bool negated = SkipName("not");
  CHOIR_ASSIGN_OR_RETURN(std::string name, ExpectName());
  while (SkipOperator(".")) {
    CHOIR_ASSIGN_OR_RETURN(std::string part, ExpectName());
    name += "." + part;
  }
  auto node = std::make_unique<TestExpr>(line, name);
  node->operand = std::move(operand);
  node->test = FindTest(name);
  if (node->test == nullptr && !conditional_) {
    unknown_.push_back(Fail(line, "there is no test '{}'", name));
  }
  const TokenKind kind = Now().kind;
  if (IsOperator("(")) {
    CHOIR_RETURN_IF_ERROR(ParseArgs(&node->args));
  } else if ((kind == TokenKind::kName && !IsName("else") && !IsName("or") && !IsName("and")) ||
             kind == TokenKind::kString || kind == TokenKind::kInteger ||
             kind == TokenKind::kFloat || IsOperator("[") || IsOperator("{")) {
    if (IsName("is")) return Fail(line, "tests cannot be chained with 'is'");
    CHOIR_ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    CHOIR_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument), false));
    node->args.positional.push_back(std::move(argument));
  }
  if (!negated) return node;
  return std::make_unique<NotExpr>(line, std::move(node));
}

}  // namespace choir::tmpl
