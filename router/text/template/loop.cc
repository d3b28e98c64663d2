#include "router/text/template/loop.h"

#include "router/text/template/ops.h"

namespace choir::tmpl {

ForLoop::ForLoop(Interpreter* interpreter, const ForStmt* node, ScopePtr scope, int64_t level)
    : LoopObject(interpreter->runtime().meter()),
      interpreter_(interpreter),
      node_(node),
      scope_(std::move(scope)),
      level_(level) {
  Charge(sizeof(ForLoop));
}

Status ForLoop::Start(const Value& items) {
  depth = items.Depth() + 1;
  if (depth > kValueDepthMax) return InvalidArgument("values nest deeper than {}", kValueDepthMax);
  CHOIR_ASSIGN_OR_RETURN(cursor_, Cursor::Over(items));
  if (node_->test == nullptr) length_ = cursor_.Length();
  return {};
}

StatusOr<bool> ForLoop::Pull(Value* item) {
  Runtime& rt = interpreter_->runtime();
  for (;;) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, cursor_.Next(rt, item));
    if (!more || node_->test == nullptr) return more;
    const auto scope = std::make_shared<Scope>(scope_);
    CHOIR_RETURN_IF_ERROR(interpreter_->Assign(*node_->target, *item, scope));
    CHOIR_ASSIGN_OR_RETURN(const Value keep, interpreter_->Eval(*node_->test, scope));
    if (Truth(keep)) return true;
  }
}

StatusOr<bool> ForLoop::HasNext() {
  if (next_ < ahead_.size()) return true;
  Value item;
  CHOIR_ASSIGN_OR_RETURN(const bool more, Pull(&item));
  if (more) ahead_.push_back(std::move(item));
  return more;
}

StatusOr<bool> ForLoop::Advance() {
  CHOIR_ASSIGN_OR_RETURN(const bool more, HasNext());
  if (!more) return false;
  previous_ = std::move(current_);
  current_ = std::move(ahead_[next_++]);
  if (next_ == ahead_.size()) {
    ahead_.clear();
    next_ = 0;
  }
  ++index_;
  return true;
}

StatusOr<int64_t> ForLoop::LoopLength() {
  while (length_ < 0) {
    Value item;
    CHOIR_ASSIGN_OR_RETURN(const bool more, Pull(&item));
    if (more) {
      ahead_.push_back(std::move(item));
      CHOIR_RETURN_IF_ERROR(interpreter_->runtime().FitsValues(ahead_.size()));
    } else {
      length_ = index_ + 1 + static_cast<int64_t>(ahead_.size() - next_);
    }
  }
  return length_;
}

StatusOr<Value> ForLoop::Cycle(Runtime&, const Value& self, const Args& args) {
  if (args.positional.empty()) return InvalidArgument("no items for cycling given");
  const auto& loop = static_cast<const ForLoop&>(self.Loop());
  return args.positional[static_cast<size_t>(loop.index_) % args.positional.size()];
}

StatusOr<Value> ForLoop::Changed(Runtime& rt, const Value& self, const Args& args) {
  auto& loop = static_cast<ForLoop&>(self.Loop());
  CHOIR_ASSIGN_OR_RETURN(const Value now, rt.List(args.positional, ListType::kTuple));
  CHOIR_ASSIGN_OR_RETURN(const bool same, Equal(rt, loop.changed_, now));
  if (loop.changed_.Is(Kind::kAbsent)) {  // the values may hold the loop: broken up at the end
    const auto keep = Value::Of(Kind::kLoop, loop.shared_from_this());
    rt.ReleaseAtEnd([keep] { static_cast<ForLoop&>(keep.Loop()).changed_ = Value::Absent(); });
  }
  loop.changed_ = now;
  return Value::Bool(!same);
}

StatusOr<Value> ForLoop::Attribute(Runtime& rt, const std::string& name) {
  if (name == "index") return Value::Int(index_ + 1);
  if (name == "index0") return Value::Int(index_);
  if (name == "first") return Value::Bool(index_ == 0);
  if (name == "depth") return Value::Int(level_ + 1);
  if (name == "depth0") return Value::Int(level_);
  if (name == "previtem")
    return index_ == 0 ? rt.Undefined("there is no previous item") : previous_;
  if (name == "last" || name == "nextitem") {
    CHOIR_ASSIGN_OR_RETURN(const bool more, HasNext());
    if (name == "last") return Value::Bool(!more);
    return more ? ahead_[next_] : rt.Undefined("there is no next item");
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    CHOIR_ASSIGN_OR_RETURN(const int64_t length, LoopLength());
    return Value::Int(name == "length" ? length : length - index_ - (name == "revindex0" ? 1 : 0));
  }
  if (name == "cycle" || name == "changed") {
    return rt.Function(name, name == "cycle" ? Cycle : Changed,
                       Value::Of(Kind::kLoop, shared_from_this()));
  }
  return Value::Absent();
}

StatusOr<Interpreter::Flow> Interpreter::ExecFor(const ForStmt& node, const ScopePtr& scope,
                                                 Sink* out) {
  CHOIR_ASSIGN_OR_RETURN(const Value items, Eval(*node.iterable, scope));
  return RunLoop(node, scope, items, 0, out);
}

// Jinja runs `else` when no round came to its end, so also after a `break` or `continue` in the
// first.
StatusOr<Interpreter::Flow> Interpreter::RunLoop(const ForStmt& node, const ScopePtr& scope,
                                                 const Value& items, int64_t level, Sink* out) {
  const auto loop = std::make_shared<ForLoop>(this, &node, scope, level);
  CHOIR_RETURN_IF_ERROR(loop->Start(items));
  const Value loop_value = Value::Of(Kind::kLoop, loop);
  bool completed = false;
  for (;;) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, loop->Advance());
    if (!more) break;
    const auto inner = std::make_shared<Scope>(scope);
    inner->Set(program_.loop_symbol, loop_value);
    CHOIR_RETURN_IF_ERROR(Assign(*node.target, loop->item(), inner));
    CHOIR_ASSIGN_OR_RETURN(const Flow flow, Exec(node.body, inner, out));
    if (flow == Flow::kBreak) break;
    completed |= flow == Flow::kNormal;
  }
  if (completed || node.otherwise.empty()) return Flow::kNormal;
  return Exec(node.otherwise, std::make_shared<Scope>(scope), out);
}

// loop(items) inside a recursive loop.
StatusOr<Value> Interpreter::CallLoop(const Value& value, const Args& args) {
  const auto* called = dynamic_cast<const ForLoop*>(&value.Loop());
  if (called == nullptr) return InvalidArgument("'Cycler' object is not callable");
  const ForLoop& loop = *called;
  if (!loop.node().recursive) {
    return InvalidArgument("The loop must have the 'recursive' marker to be called recursively.");
  }
  CHOIR_ASSIGN_OR_RETURN(const auto a, Bind("loop", args, {"iterable"}, 1));
  Sink out(rt_);
  CHOIR_RETURN_IF_ERROR(RunLoop(loop.node(), loop.scope(), a[0], loop.level() + 1, &out).status());
  return rt_.String(out.Take());
}

}  // namespace choir::tmpl
