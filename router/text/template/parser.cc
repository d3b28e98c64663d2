#include "router/text/template/parser.h"

#include <algorithm>

#include "router/text/template/parser_impl.h"

namespace choir::tmpl {

StatusOr<std::unique_ptr<const Program>> Parse(const std::string& source) {
  CHOIR_ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return Parser(std::move(tokens)).Run();
}

Parser::Parser(std::vector<Token> tokens)
    : tokens_(std::move(tokens)), program_(std::make_unique<Program>()) {
  program_->loop_symbol = Symbol("loop");
  program_->caller_symbol = Symbol("caller");
  program_->varargs_symbol = Symbol("varargs");
  program_->kwargs_symbol = Symbol("kwargs");
}

ExprPtr Parser::ParseInteger() {
  const Token& token = Take();
  if (token.too_large) return std::make_unique<TooLargeExpr>(token.line, token.text);
  return std::make_unique<ConstExpr>(token.line, Value::Int(token.integer));
}

StatusOr<std::unique_ptr<const Program>> Parser::Run() {
  CHOIR_RETURN_IF_ERROR(ParseBody({}, "", &program_->body));
  if (!unknown_.empty()) return unknown_.front();
  return std::unique_ptr<const Program>(std::move(program_));
}

bool Parser::IsName(std::string_view name) const {
  return Now().kind == TokenKind::kName && Now().text == name;
}
bool Parser::IsOperator(std::string_view op) const {
  return Now().kind == TokenKind::kOperator && Now().text == op;
}
bool Parser::SkipName(std::string_view name) { return IsName(name) && (Take(), true); }
bool Parser::SkipOperator(std::string_view op) { return IsOperator(op) && (Take(), true); }

Status Parser::Unexpected(std::string_view expected) const {
  const auto what = [&]() -> std::string {
    switch (Now().kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kData:
        return "text";
      case TokenKind::kOutputBegin:
        return "'{{'";
      case TokenKind::kOutputEnd:
        return "'}}'";
      case TokenKind::kBlockBegin:
        return "'{%'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      case TokenKind::kString:
        return "a string";
      default:
        return "'" + Now().text + "'";
    }
  };
  return Fail(Now().line, "expected {}, got {}", expected, what());
}

Status Parser::ExpectOperator(std::string_view op) {
  return SkipOperator(op) ? Status() : Unexpected("'" + std::string(op) + "'");
}

StatusOr<std::string> Parser::ExpectName() {
  if (Now().kind != TokenKind::kName) return Unexpected("a name");
  return Take().text;
}

Status Parser::ExpectBlockEnd() {
  if (Now().kind != TokenKind::kBlockEnd) return Unexpected("'%}'");
  Take();
  return {};
}

int Parser::Symbol(const std::string& name) {
  const auto [it, is_new] = symbols_.emplace(name, static_cast<int>(program_->symbols.size()));
  if (is_new) program_->symbols.push_back(name);
  return it->second;
}

Status Parser::ParseBody(const Ends& ends, std::string_view opener, Body* body) {
  if (++depth_ > kParseDepthMax) {
    return Fail(Now().line, "blocks nest deeper than {}", kParseDepthMax);
  }
  const int line = at_ > 0 ? tokens_[at_ - 1].line : 1;  // of the tag that opened the body
  for (;;) {
    const Token& token = Now();
    if (token.kind == TokenKind::kEnd) {
      if (!ends.empty()) return Fail(line, "'{}' has no '{}'", opener, ends.back());
      break;
    }
    if (token.kind == TokenKind::kData) {
      body->push_back(std::make_unique<TextStmt>(token.line, Take().text));
    } else if (token.kind == TokenKind::kOutputBegin) {
      const int at = Take().line;
      CHOIR_ASSIGN_OR_RETURN(ExprPtr expr, ParseTuple(true, "", false));
      if (Now().kind != TokenKind::kOutputEnd) return Unexpected("'}}'");
      Take();
      body->push_back(std::make_unique<OutputStmt>(at, std::move(expr)));
    } else {  // a block begins: nothing else can follow data
      Take();
      if (Now().kind == TokenKind::kName &&
          std::find(ends.begin(), ends.end(), Now().text) != ends.end()) {
        break;
      }
      CHOIR_ASSIGN_OR_RETURN(StmtPtr statement, ParseStatement());
      if (statement != nullptr) body->push_back(std::move(statement));
      CHOIR_RETURN_IF_ERROR(ExpectBlockEnd());
    }
  }
  --depth_;
  return {};
}

Status Parser::ParseBlock(const Ends& ends, std::string_view opener, Body* body) {
  SkipOperator(":");  // allowed, as in Python
  CHOIR_RETURN_IF_ERROR(ExpectBlockEnd());
  return ParseBody(ends, opener, body);
}

Status Parser::ParseScoped(const Ends& ends, std::string_view opener, Body* body, bool in_loop) {
  const bool conditional = std::exchange(conditional_, false);
  loops_ += in_loop ? 1 : 0;
  CHOIR_RETURN_IF_ERROR(ParseBlock(ends, opener, body));
  loops_ -= in_loop ? 1 : 0;
  conditional_ = conditional;
  return {};
}

StatusOr<StmtPtr> Parser::ParseStatement() {
  const int line = Now().line;
  if (Now().kind != TokenKind::kName) return Unexpected("the name of a tag");
  const std::string tag = Take().text;
  return ParseTag(tag, line);
}

StatusOr<StmtPtr> Parser::ParseTag(const std::string& tag, int line) {
  if (tag == "if") return ParseIf(line);
  if (tag == "for") return ParseFor(line);
  if (tag == "set") return ParseSet(line);
  if (tag == "macro") return ParseMacro(line);
  if (tag == "call") return ParseCallBlock(line);
  if (tag == "filter") return ParseFilterBlock(line);
  if (tag == "with") return ParseWith(line);
  if (tag == "generation") return ParseGeneration(line);
  if (tag == "print") return ParsePrint(line);
  if (tag == "break" || tag == "continue") {
    if (loops_ == 0) return Fail(line, "'{}' outside of a loop", tag);
    return std::make_unique<Stmt>(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
  }
  static constexpr std::string_view kOthers[] = {"block",  "extends", "include",
                                                 "import", "from",    "autoescape"};
  if (std::find(std::begin(kOthers), std::end(kOthers), tag) != std::end(kOthers)) {
    return Fail(line, "the tag '{}' is not supported in chat templates", tag);
  }
  return Fail(line, "unknown tag '{}'", tag);
}

StatusOr<StmtPtr> Parser::ParseIf(int line) {
  auto node = std::make_unique<IfStmt>(line);
  const bool conditional = std::exchange(conditional_, true);
  for (bool more = true; more;) {
    auto& [test, body] = node->branches.emplace_back();
    CHOIR_ASSIGN_OR_RETURN(test, ParseTuple(false, "", false));
    CHOIR_RETURN_IF_ERROR(ParseBlock({"elif", "else", "endif"}, "if", &body));
    const std::string end = Take().text;
    more = end == "elif";
    if (end == "else") {
      CHOIR_RETURN_IF_ERROR(ParseBlock({"endif"}, "if", &node->otherwise));
      Take();
    }
  }
  conditional_ = conditional;
  return node;
}

StatusOr<StmtPtr> Parser::ParseFor(int line) {
  auto node = std::make_unique<ForStmt>(line);
  CHOIR_ASSIGN_OR_RETURN(node->target, ParseTarget(false, true));
  if (!SkipName("in")) return Unexpected("'in'");
  CHOIR_ASSIGN_OR_RETURN(node->iterable, ParseTuple(false, "recursive", false));
  if (SkipName("if")) {
    const bool conditional = std::exchange(conditional_, false);
    CHOIR_ASSIGN_OR_RETURN(node->test, ParseExpression());
    conditional_ = conditional;
  }
  node->recursive = SkipName("recursive");
  CHOIR_RETURN_IF_ERROR(ParseScoped({"else", "endfor"}, "for", &node->body, true));
  if (Take().text == "else") {
    CHOIR_RETURN_IF_ERROR(ParseScoped({"endfor"}, "for", &node->otherwise, false));
    Take();
  }
  return node;
}

StatusOr<StmtPtr> Parser::ParseSet(int line) {
  CHOIR_ASSIGN_OR_RETURN(ExprPtr target, ParseTarget(true, false));
  if (SkipOperator("=")) {
    auto node = std::make_unique<SetStmt>(line);
    node->target = std::move(target);
    CHOIR_ASSIGN_OR_RETURN(node->value, ParseTuple(true, "", false));
    return node;
  }
  auto node = std::make_unique<SetBlockStmt>(line);
  node->target = std::move(target);
  for (int n = 0; IsOperator("|"); ++n) {
    CHOIR_RETURN_IF_ERROR(CheckChain(n));
    CHOIR_ASSIGN_OR_RETURN(node->filter, ParseFilter(std::move(node->filter)));
  }
  CHOIR_RETURN_IF_ERROR(ParseScoped({"endset"}, "set", &node->body, false));
  Take();
  return node;
}

Status Parser::ParseSignature(MacroStmt* macro) {
  CHOIR_RETURN_IF_ERROR(ExpectOperator("("));
  while (!IsOperator(")")) {
    if (!macro->parameters.empty()) CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
    const int line = Now().line;
    CHOIR_ASSIGN_OR_RETURN(std::string name, ExpectName());
    if (SkipOperator("=")) {
      CHOIR_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      macro->defaults.push_back(std::move(value));
    } else if (!macro->defaults.empty()) {
      return Fail(line, "the parameter '{}' without a default follows one with a default", name);
    }
    macro->parameters.emplace_back(Symbol(name), name);
  }
  Take();
  return {};
}

Status Parser::ParseMacroBody(std::string_view end, std::string_view opener, MacroStmt* macro) {
  const int loops = std::exchange(loops_, 0);
  macros_.emplace_back();
  CHOIR_RETURN_IF_ERROR(ParseScoped({end}, opener, &macro->body, false));
  Take();
  const MacroUse use = macros_.back();
  macros_.pop_back();
  const auto declares = [&](const char* name) {
    return std::any_of(macro->parameters.begin(), macro->parameters.end(),
                       [&](const auto& p) { return p.second == name; });
  };
  macro->uses_caller = use.caller && !declares("caller");
  macro->uses_varargs = use.varargs && !declares("varargs");
  macro->uses_kwargs = use.kwargs && !declares("kwargs");
  if (!macros_.empty()) {
    macros_.back().caller |= macro->uses_caller;
    macros_.back().varargs |= macro->uses_varargs;
    macros_.back().kwargs |= macro->uses_kwargs;
  }
  loops_ = loops;
  return {};
}

StatusOr<StmtPtr> Parser::ParseMacro(int line) {
  auto node = std::make_unique<MacroStmt>(line);
  CHOIR_ASSIGN_OR_RETURN(node->name, ExpectName());
  node->symbol = Symbol(node->name);
  CHOIR_RETURN_IF_ERROR(ParseSignature(node.get()));
  CHOIR_RETURN_IF_ERROR(ParseMacroBody("endmacro", "macro", node.get()));
  return node;
}

StatusOr<StmtPtr> Parser::ParseCallBlock(int line) {
  auto node = std::make_unique<CallBlockStmt>(line);
  node->block = std::make_unique<MacroStmt>(line);
  node->block->name = "caller";
  if (IsOperator("(")) CHOIR_RETURN_IF_ERROR(ParseSignature(node->block.get()));
  CHOIR_ASSIGN_OR_RETURN(node->call, ParseExpression());
  if (node->call->kind != ExprKind::kCall) return Fail(line, "'call' needs a call");
  CHOIR_RETURN_IF_ERROR(ParseMacroBody("endcall", "call", node->block.get()));
  return node;
}

StatusOr<StmtPtr> Parser::ParseFilterBlock(int line) {
  auto node = std::make_unique<FilterBlockStmt>(line);
  CHOIR_ASSIGN_OR_RETURN(node->filter, ParseFilter(nullptr));
  for (int n = 0; IsOperator("|"); ++n) {
    CHOIR_RETURN_IF_ERROR(CheckChain(n));
    CHOIR_ASSIGN_OR_RETURN(node->filter, ParseFilter(std::move(node->filter)));
  }
  CHOIR_RETURN_IF_ERROR(ParseScoped({"endfilter"}, "filter", &node->body, false));
  Take();
  return node;
}

StatusOr<StmtPtr> Parser::ParseWith(int line) {
  auto node = std::make_unique<WithStmt>(line);
  while (Now().kind != TokenKind::kBlockEnd) {
    if (!node->bindings.empty()) CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
    auto& [target, value] = node->bindings.emplace_back();
    CHOIR_ASSIGN_OR_RETURN(target, ParseTarget(false, false));
    CHOIR_RETURN_IF_ERROR(ExpectOperator("="));
    CHOIR_ASSIGN_OR_RETURN(value, ParseExpression());
  }
  CHOIR_RETURN_IF_ERROR(ParseScoped({"endwith"}, "with", &node->body, false));
  Take();
  return node;
}

// Jinja compiles the block as a macro, so break and continue do not reach a loop outside it.
StatusOr<StmtPtr> Parser::ParseGeneration(int line) {
  auto node = std::make_unique<ScopeStmt>(line);
  const int loops = std::exchange(loops_, 0);
  CHOIR_RETURN_IF_ERROR(ParseScoped({"endgeneration"}, "generation", &node->body, false));
  loops_ = loops;
  Take();
  return node;
}

StatusOr<StmtPtr> Parser::ParsePrint(int line) {
  auto list = std::make_unique<ConcatExpr>(line);
  while (Now().kind != TokenKind::kBlockEnd) {
    if (!list->items.empty()) CHOIR_RETURN_IF_ERROR(ExpectOperator(","));
    CHOIR_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    list->items.push_back(std::move(item));
  }
  return std::make_unique<OutputStmt>(line, std::move(list));
}

Status Parser::CheckTarget(const Expr& target) const {
  if (target.kind == ExprKind::kName || target.kind == ExprKind::kNamespaceRef) return {};
  if (target.kind != ExprKind::kSequence) return Fail(target.line, "this cannot be assigned to");
  const auto& sequence = static_cast<const SequenceExpr&>(target);
  if (sequence.type != ListType::kTuple) return Fail(target.line, "this cannot be assigned to");
  for (const ExprPtr& item : sequence.items) CHOIR_RETURN_IF_ERROR(CheckTarget(*item));
  return {};
}

StatusOr<ExprPtr> Parser::ParseTarget(bool with_namespace, bool ends_at_in) {
  auto tuple = std::make_unique<SequenceExpr>(Now().line, ListType::kTuple);
  bool is_tuple = false;
  for (;;) {
    const bool ends = Now().kind == TokenKind::kBlockEnd || IsOperator(")") || IsOperator("=") ||
                      (ends_at_in && IsName("in"));
    if (ends && !tuple->items.empty()) break;
    const int line = Now().line;
    if (with_namespace && Now().kind == TokenKind::kName && Ahead().kind == TokenKind::kOperator &&
        Ahead().text == ".") {
      const int symbol = Symbol(Take().text);
      Take();
      CHOIR_ASSIGN_OR_RETURN(std::string field, ExpectName());
      tuple->items.push_back(std::make_unique<NamespaceRefExpr>(line, symbol, std::move(field)));
    } else {
      CHOIR_ASSIGN_OR_RETURN(ExprPtr item, ParsePrimary());
      CHOIR_RETURN_IF_ERROR(CheckTarget(*item));
      tuple->items.push_back(std::move(item));
    }
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  return std::move(tuple->items.front());
}

}  // namespace choir::tmpl
