// The parser's class, for its two files: parser.cc (statements) and parser_expr.cc (expressions).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "router/text/template/ast.h"
#include "router/text/template/lexer.h"
#include "router/text/template/parser.h"

namespace choir::tmpl {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens);
  StatusOr<std::unique_ptr<const Program>> Run();

 private:
  using Ends = std::vector<std::string_view>;

  // --- tokens
  const Token& Now() const { return tokens_[at_]; }
  const Token& Ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsName(std::string_view name) const;
  bool IsOperator(std::string_view op) const;
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view op);
  Status ExpectOperator(std::string_view op);
  StatusOr<std::string> ExpectName();
  Status ExpectBlockEnd();
  int Symbol(const std::string& name);
  template <typename... A>
  Status Fail(int line, fmt::format_string<A...> format, A&&... args) const {
    return InvalidArgument("chat template, line {}: {}", line,
                           fmt::format(format, std::forward<A>(args)...));
  }
  Status Unexpected(std::string_view expected) const;

  // --- statements (parser.cc)
  // Statements up to a tag named in `ends`, which stays the current token.
  Status ParseBody(const Ends& ends, std::string_view opener, Body* body);
  Status ParseBlock(const Ends& ends, std::string_view opener, Body* body);
  // The same for code that Jinja compiles in a frame of its own: unknown filters are errors again.
  Status ParseScoped(const Ends& ends, std::string_view opener, Body* body, bool in_loop);
  StatusOr<StmtPtr> ParseStatement();
  StatusOr<StmtPtr> ParseTag(const std::string& tag, int line);
  StatusOr<StmtPtr> ParseIf(int line);
  StatusOr<StmtPtr> ParseFor(int line);
  StatusOr<StmtPtr> ParseSet(int line);
  StatusOr<StmtPtr> ParseMacro(int line);
  StatusOr<StmtPtr> ParseCallBlock(int line);
  StatusOr<StmtPtr> ParseFilterBlock(int line);
  StatusOr<StmtPtr> ParseWith(int line);
  StatusOr<StmtPtr> ParseGeneration(int line);
  StatusOr<StmtPtr> ParsePrint(int line);
  Status ParseSignature(MacroStmt* macro);
  Status ParseMacroBody(std::string_view end, std::string_view opener, MacroStmt* macro);
  StatusOr<ExprPtr> ParseTarget(bool with_namespace, bool ends_at_in);
  Status CheckTarget(const Expr& target) const;

  // --- expressions (parser_expr.cc)
  StatusOr<ExprPtr> ParseExpression(bool with_condition = true);
  // One expression, or a tuple when commas follow; ends_at: a name that ends the list.
  StatusOr<ExprPtr> ParseTuple(bool with_condition, std::string_view ends_at, bool in_parentheses);
  StatusOr<ExprPtr> ParseOr();
  StatusOr<ExprPtr> ParseAnd();
  StatusOr<ExprPtr> ParseNot();
  StatusOr<ExprPtr> ParseCompare();
  StatusOr<ExprPtr> ParseMath(int level);
  StatusOr<ExprPtr> ParseConcat();
  StatusOr<ExprPtr> ParseUnary(bool with_filter);
  ExprPtr ParseInteger();  // REQUIRES: one is next
  StatusOr<ExprPtr> ParsePrimary();
  StatusOr<ExprPtr> ParseNamed();
  StatusOr<ExprPtr> ParseList();
  StatusOr<ExprPtr> ParseDict();
  StatusOr<ExprPtr> ParsePostfix(ExprPtr node, bool with_filter);
  StatusOr<ExprPtr> ParseSubscript(ExprPtr node);
  StatusOr<ExprPtr> ParseIndex();
  StatusOr<ExprPtr> ParseFilter(ExprPtr operand);
  StatusOr<ExprPtr> ParseTest(ExprPtr operand);
  Status ParseArgs(CallArgs* args);
  Status CheckChain(int length) const;

  struct MacroUse {
    bool caller = false, varargs = false, kwargs = false;
  };

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;                // enclosing loops that break and continue may name
  bool conditional_ = false;     // inside code that may never run
  std::vector<Status> unknown_;  // filters and tests that do not exist, in unconditional code
  std::vector<MacroUse> macros_;
  std::unique_ptr<Program> program_;
  std::unordered_map<std::string, int> symbols_;
};

}  // namespace choir::tmpl
