#include "router/text/template/inspect.h"

#include <set>

namespace choir::tmpl {
namespace {

class Inspector {
 public:
  explicit Inspector(const Program& program) : program_(program) {}

  bool Run() {
    Walk(program_.body);
    // Sets may follow uses (macros): a second pass sees all of them.
    Walk(program_.body);
    return iterates_;
  }

 private:
  const std::string& Name(int symbol) const {
    return program_.symbols[static_cast<size_t>(symbol)];
  }

  static bool IsContentKey(const Expr& expr) {
    if (expr.kind != ExprKind::kConst) return false;
    const Value& key = static_cast<const ConstExpr&>(expr).value;
    return key.IsString() && key.Text() == "content";
  }

  // x.content, through filters and conditions but not through other method calls, which make other
  // values.
  bool IsContent(const Expr& expr) const {
    switch (expr.kind) {
      case ExprKind::kName: {
        const int symbol = static_cast<const NameExpr&>(expr).symbol;
        return Name(symbol) == "content" || aliases_.contains(symbol);
      }
      case ExprKind::kAttr:
        return static_cast<const AttrExpr&>(expr).name == "content";
      case ExprKind::kItem: {
        const Expr& index = *static_cast<const ItemExpr&>(expr).index;
        return IsContentKey(index);
      }
      case ExprKind::kCall: {  // x.get('content')
        const auto& call = static_cast<const CallExpr&>(expr);
        return call.callee->kind == ExprKind::kAttr &&
               static_cast<const AttrExpr&>(*call.callee).name == "get" &&
               !call.args.positional.empty() && IsContentKey(*call.args.positional[0]);
      }
      case ExprKind::kFilter: {
        const Expr* operand = static_cast<const FilterExpr&>(expr).operand.get();
        return operand != nullptr && IsContent(*operand);
      }
      case ExprKind::kCond: {
        const auto& cond = static_cast<const CondExpr&>(expr);
        return IsContent(*cond.then) || (cond.otherwise != nullptr && IsContent(*cond.otherwise));
      }
      case ExprKind::kLogic:
        for (const ExprPtr& operand : static_cast<const LogicExpr&>(expr).operands) {
          if (IsContent(*operand)) return true;
        }
        return false;
      default:
        return false;
    }
  }

  void Walk(const Body& body) {
    for (const StmtPtr& statement : body) WalkOne(*statement);
  }

  void WalkOne(const Stmt& statement) {
    switch (statement.kind) {
      case StmtKind::kIf: {
        const auto& node = static_cast<const IfStmt&>(statement);
        for (const auto& [test, body] : node.branches) Walk(body);
        return Walk(node.otherwise);
      }
      case StmtKind::kFor: {
        const auto& node = static_cast<const ForStmt&>(statement);
        iterates_ |= IsContent(*node.iterable);
        Walk(node.body);
        return Walk(node.otherwise);
      }
      case StmtKind::kSet: {
        const auto& node = static_cast<const SetStmt&>(statement);
        if (node.target->kind == ExprKind::kName && IsContent(*node.value)) {
          aliases_.insert(static_cast<const NameExpr&>(*node.target).symbol);
        }
        return;
      }
      case StmtKind::kSetBlock:
        return Walk(static_cast<const SetBlockStmt&>(statement).body);
      case StmtKind::kMacro:
        return Walk(static_cast<const MacroStmt&>(statement).body);
      case StmtKind::kCallBlock:
        return Walk(static_cast<const CallBlockStmt&>(statement).block->body);
      case StmtKind::kFilterBlock:
        return Walk(static_cast<const FilterBlockStmt&>(statement).body);
      case StmtKind::kWith:
        return Walk(static_cast<const WithStmt&>(statement).body);
      case StmtKind::kScope:
        return Walk(static_cast<const ScopeStmt&>(statement).body);
      default:
        return;
    }
  }

  const Program& program_;
  std::set<int> aliases_;
  bool iterates_ = false;
};

}  // namespace

bool IteratesContent(const Program& program) { return Inspector(program).Run(); }

}  // namespace choir::tmpl
