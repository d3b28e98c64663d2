// The parsed template. Immutable once parsed; nesting is bounded by the parser, so walking and
// destroying the tree needs a bounded stack. Names are interned: `symbol` indexes Program::symbols.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "router/text/template/value.h"

namespace choir::tmpl {

enum class ExprKind : uint8_t {
  kConst,
  kTooLarge,
  kName,
  kSequence,
  kDict,
  kCond,
  kLogic,
  kNot,
  kCompare,
  kMath,
  kConcat,
  kUnary,
  kAttr,
  kItem,
  kSlice,
  kCall,
  kFilter,
  kTest,
  kNamespaceRef,
};

struct Expr {
  Expr(ExprKind k, int l) : kind(k), line(l) {}
  virtual ~Expr() = default;
  ExprKind kind;
  int line;
};
using ExprPtr = std::unique_ptr<Expr>;

struct CallArgs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;  // *args, **kwargs
};

struct ConstExpr : Expr {
  ConstExpr(int l, Value v) : Expr(ExprKind::kConst, l), value(std::move(v)) {}
  Value value;
};
struct TooLargeExpr : Expr {  // an integer beyond 64 bits: fails when evaluated
  TooLargeExpr(int l, std::string d) : Expr(ExprKind::kTooLarge, l), digits(std::move(d)) {}
  std::string digits;
};
struct NameExpr : Expr {
  NameExpr(int l, int s) : Expr(ExprKind::kName, l), symbol(s) {}
  int symbol;
};
struct SequenceExpr : Expr {  // [a, b] and (a, b)
  SequenceExpr(int l, ListType t) : Expr(ExprKind::kSequence, l), type(t) {}
  ListType type;
  std::vector<ExprPtr> items;
};
struct DictExpr : Expr {
  explicit DictExpr(int l) : Expr(ExprKind::kDict, l) {}
  std::vector<std::pair<ExprPtr, ExprPtr>> items;
};
struct CondExpr : Expr {  // a if test else b; without else, undefined
  explicit CondExpr(int l) : Expr(ExprKind::kCond, l) {}
  ExprPtr test, then, otherwise;
};
struct LogicExpr : Expr {  // a or b or c
  LogicExpr(int l, bool o) : Expr(ExprKind::kLogic, l), is_or(o) {}
  bool is_or;
  std::vector<ExprPtr> operands;
};
struct NotExpr : Expr {
  NotExpr(int l, ExprPtr e) : Expr(ExprKind::kNot, l), operand(std::move(e)) {}
  ExprPtr operand;
};
enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };
struct CompareExpr : Expr {  // a < b <= c
  explicit CompareExpr(int l) : Expr(ExprKind::kCompare, l) {}
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};
enum class MathOp : uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
struct MathExpr : Expr {  // a + b - c, of one precedence, from the left
  explicit MathExpr(int l) : Expr(ExprKind::kMath, l) {}
  ExprPtr first;
  std::vector<std::pair<MathOp, ExprPtr>> rest;
};
struct ConcatExpr : Expr {
  explicit ConcatExpr(int l) : Expr(ExprKind::kConcat, l) {}
  std::vector<ExprPtr> items;
};
struct UnaryExpr : Expr {
  UnaryExpr(int l, bool n, ExprPtr e)
      : Expr(ExprKind::kUnary, l), negate(n), operand(std::move(e)) {}
  bool negate;
  ExprPtr operand;
};
struct AttrExpr : Expr {
  AttrExpr(int l, ExprPtr o, std::string n)
      : Expr(ExprKind::kAttr, l), object(std::move(o)), name(std::move(n)) {}
  ExprPtr object;
  std::string name;
};
struct ItemExpr : Expr {
  ItemExpr(int l, ExprPtr o, ExprPtr i)
      : Expr(ExprKind::kItem, l), object(std::move(o)), index(std::move(i)) {}
  ExprPtr object, index;
};
struct SliceExpr : Expr {  // only as the index of an ItemExpr
  explicit SliceExpr(int l) : Expr(ExprKind::kSlice, l) {}
  ExprPtr start, stop, step;
};
struct CallExpr : Expr {
  CallExpr(int l, ExprPtr c) : Expr(ExprKind::kCall, l), callee(std::move(c)) {}
  ExprPtr callee;
  CallArgs args;
};
struct FilterExpr : Expr {
  FilterExpr(int l, std::string n) : Expr(ExprKind::kFilter, l), name(std::move(n)) {}
  ExprPtr operand;  // null: the text of the block it is applied to
  std::string name;
  Builtin filter = nullptr;  // null: unknown, an error when it is reached
  CallArgs args;
};
struct TestExpr : Expr {
  TestExpr(int l, std::string n) : Expr(ExprKind::kTest, l), name(std::move(n)) {}
  ExprPtr operand;
  std::string name;
  Builtin test = nullptr;
  CallArgs args;
};
struct NamespaceRefExpr : Expr {  // only as a target: ns.field
  NamespaceRefExpr(int l, int s, std::string f)
      : Expr(ExprKind::kNamespaceRef, l), symbol(s), field(std::move(f)) {}
  int symbol;
  std::string field;
};

enum class StmtKind : uint8_t {
  kText,
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kScope,
  kBreak,
  kContinue,
};

struct Stmt {
  Stmt(StmtKind k, int l) : kind(k), line(l) {}
  virtual ~Stmt() = default;
  StmtKind kind;
  int line;
};
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct TextStmt : Stmt {
  TextStmt(int l, std::string t) : Stmt(StmtKind::kText, l), text(std::move(t)) {}
  std::string text;
};
struct OutputStmt : Stmt {
  OutputStmt(int l, ExprPtr e) : Stmt(StmtKind::kOutput, l), expr(std::move(e)) {}
  ExprPtr expr;
};
struct IfStmt : Stmt {
  explicit IfStmt(int l) : Stmt(StmtKind::kIf, l) {}
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body otherwise;
};
struct ForStmt : Stmt {
  explicit ForStmt(int l) : Stmt(StmtKind::kFor, l) {}
  ExprPtr target, iterable, test;
  bool recursive = false;
  Body body, otherwise;
};
struct SetStmt : Stmt {
  explicit SetStmt(int l) : Stmt(StmtKind::kSet, l) {}
  ExprPtr target, value;
};
struct SetBlockStmt : Stmt {
  explicit SetBlockStmt(int l) : Stmt(StmtKind::kSetBlock, l) {}
  ExprPtr target, filter;
  Body body;
};
// A macro, or the block of a `call`, which is a macro without a name.
struct MacroStmt : Stmt {
  explicit MacroStmt(int l) : Stmt(StmtKind::kMacro, l) {}
  std::string name;
  int symbol = -1;
  std::vector<std::pair<int, std::string>> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  Body body;
};
struct CallBlockStmt : Stmt {
  explicit CallBlockStmt(int l) : Stmt(StmtKind::kCallBlock, l) {}
  std::unique_ptr<MacroStmt> block;
  ExprPtr call;  // a CallExpr
};
struct FilterBlockStmt : Stmt {
  explicit FilterBlockStmt(int l) : Stmt(StmtKind::kFilterBlock, l) {}
  ExprPtr filter;
  Body body;
};
struct WithStmt : Stmt {
  explicit WithStmt(int l) : Stmt(StmtKind::kWith, l) {}
  std::vector<std::pair<ExprPtr, ExprPtr>> bindings;
  Body body;
};
struct ScopeStmt : Stmt {  // {% generation %}
  explicit ScopeStmt(int l) : Stmt(StmtKind::kScope, l) {}
  Body body;
};

struct Program {
  Body body;
  std::vector<std::string> symbols;
  int loop_symbol = -1, caller_symbol = -1, varargs_symbol = -1, kwargs_symbol = -1;
};

}  // namespace choir::tmpl
