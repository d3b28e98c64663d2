#include "worker/engine/scheduler.h"

#include <algorithm>

#include "common/base/check.h"
#include "worker/kv/block_table.h"

namespace choir {
namespace {

template <typename List>
auto Find(List& list, const SequenceOrder& order) {
  return std::lower_bound(
      list.begin(), list.end(), order,
      [](const ScheduledSequence& s, const SequenceOrder& o) { return s.order < o; });
}

template <typename List>
bool IsAt(const List& list, typename List::const_iterator it, const SequenceOrder& order) {
  return it != list.end() && it->order == order;
}

class Planner {
 public:
  Planner(const SchedulerState& state, const SchedulerLimits& limits)
      : state_(state),
        limits_(limits),
        num_running_(state.running.size()),
        blocks_free_(state.blocks_free),
        budget_(limits.step_tokens) {}

  StepPlan Plan() {
    plan_.chunks.reserve(num_running_ + 1);
    PreemptForHead();
    PlanDecodes();
    PlanPrefills();
    PlanAdmissions();
    return std::move(plan_);
  }

 private:
  static int64_t Remaining(const ScheduledSequence& s) { return s.num_tokens - s.num_computed; }

  bool Fits(int64_t blocks, size_t num_running, int64_t blocks_free) const {
    return static_cast<int64_t>(num_running) < limits_.sequences_max &&
           blocks + static_cast<int64_t>(num_running) <= blocks_free;
  }

  // Makes room for the head of the queue, but only at the cost of less important classes, and only
  // when that is enough.
  void PreemptForHead() {
    if (state_.waiting.empty()) return;
    const ScheduledSequence& head = state_.waiting.front();
    const int64_t blocks = BlocksFor(head.num_tokens, limits_.block_tokens);
    size_t keep = num_running_;
    int64_t blocks_free = blocks_free_;
    while (keep > 0 && !Fits(blocks, keep, blocks_free)) {
      const ScheduledSequence& last = state_.running[--keep];
      if (last.order.priority <= head.order.priority) return;
      blocks_free += last.blocks;
    }
    while (num_running_ > keep) PreemptLast();
  }

  void PlanDecodes() {
    for (size_t i = 0; i < num_running_; ++i) {
      const ScheduledSequence& s = state_.running[i];
      if (Remaining(s) != 1) continue;
      const int64_t blocks = BlocksFor(s.num_tokens, limits_.block_tokens);
      while (blocks - s.blocks > blocks_free_ && num_running_ > i) PreemptLast();
      if (num_running_ <= i) return;  // it was itself the least important one
      blocks_free_ -= blocks - s.blocks;
      blocks_grown_ += blocks - s.blocks;
      AddChunk(s, 1, blocks);
      ++plan_.num_decodes;
    }
  }

  void PreemptLast() {
    const ScheduledSequence& victim = state_.running[--num_running_];
    blocks_free_ += victim.blocks;
    plan_.preempted.push_back(victim);
  }

  void PlanPrefills() {
    for (size_t i = 0; i < num_running_ && budget_ > 0; ++i) {
      const ScheduledSequence& s = state_.running[i];
      if (Remaining(s) > 1) AddChunk(s, std::min(Remaining(s), budget_), s.blocks);
    }
  }

  void PlanAdmissions() {
    size_t num_running = num_running_;
    for (const ScheduledSequence& s : state_.waiting) {
      const int64_t blocks = BlocksFor(s.num_tokens, limits_.block_tokens);
      // What decodes took in this step came out of the blocks that are kept free for them.
      if (budget_ <= 0 || !Fits(blocks, num_running, blocks_free_ + blocks_grown_)) return;
      // Nobody overtakes a sequence that was just preempted.
      if (!plan_.preempted.empty() && plan_.preempted.back().order < s.order) return;
      blocks_free_ -= blocks;
      ++num_running;
      plan_.admitted.push_back(s);
      AddChunk(s, std::min(Remaining(s), budget_), blocks);
    }
  }

  void AddChunk(const ScheduledSequence& s, int64_t num_tokens, int64_t blocks) {
    const bool wants_logits = num_tokens == Remaining(s);
    plan_.chunks.push_back({s.id, s.order, s.num_computed, num_tokens, blocks, wants_logits});
    plan_.num_tokens += num_tokens;
    plan_.num_logits += wants_logits ? 1 : 0;
    budget_ -= num_tokens;
  }

  const SchedulerState& state_;
  const SchedulerLimits& limits_;
  size_t num_running_;  // state.running[0, num_running_) are not preempted
  int64_t blocks_free_;
  int64_t blocks_grown_ = 0;  // taken by decodes
  int64_t budget_;
  StepPlan plan_;
};

}  // namespace

std::string StepPlan::ToString() const {
  std::string out;
  for (const ScheduledSequence& s : preempted) out += fmt::format("preempt {}; ", s.id.value());
  for (const ScheduledSequence& s : admitted) out += fmt::format("admit {}; ", s.id.value());
  for (const PlannedChunk& c : chunks) {
    out += fmt::format("{}@{}+{}{} ", c.id.value(), c.first_position, c.num_tokens,
                       c.wants_logits ? "!" : "");
  }
  if (!out.empty()) out.pop_back();
  return out;
}

Status CheckFits(int64_t tokens_max, const SchedulerLimits& limits) {
  const int64_t needed = BlocksFor(tokens_max, limits.block_tokens);
  if (needed <= limits.blocks_total) return absl::OkStatus();
  return InvalidArgument(
      "needs {} KV blocks for up to {} tokens, this worker has {} blocks ({} tokens); shorten the "
      "prompt, lower max_tokens or raise kv_bytes",
      needed, tokens_max, limits.blocks_total, limits.blocks_total * limits.block_tokens);
}

StepPlan PlanStep(const SchedulerState& state, const SchedulerLimits& limits) {
  StepPlan plan = Planner(state, limits).Plan();
  CHOIR_CHECK(!plan.empty() || (state.running.empty() && state.waiting.empty()));
  return plan;
}

void ApplyPlan(const StepPlan& plan, SchedulerState* state) {
  for (const ScheduledSequence& s : plan.preempted) {
    CHOIR_CHECK(!state->running.empty() && state->running.back().order == s.order);
    state->running.pop_back();
    state->blocks_free += s.blocks;
    AddWaiting({s.id, s.order, s.num_tokens, 0, 0}, state);
  }
  for (const ScheduledSequence& s : plan.admitted) {
    CHOIR_CHECK(!state->waiting.empty() && state->waiting.front().order == s.order);
    state->waiting.pop_front();
    state->waiting_tokens -= s.num_tokens;
    state->running.insert(Find(state->running, s.order), s);
  }
  for (const PlannedChunk& c : plan.chunks) {
    const auto it = Find(state->running, c.order);
    CHOIR_CHECK(IsAt(state->running, it, c.order) && it->num_computed == c.first_position);
    state->blocks_free -= c.blocks - it->blocks;
    it->blocks = c.blocks;
    it->num_computed += c.num_tokens;
  }
  CHOIR_CHECK(state->blocks_free >= 0);
}

void AppendToken(const SequenceOrder& order, SchedulerState* state) {
  const auto it = Find(state->running, order);
  CHOIR_CHECK(IsAt(state->running, it, order) && it->num_computed == it->num_tokens);
  ++it->num_tokens;
}

void AddWaiting(const ScheduledSequence& sequence, SchedulerState* state) {
  CHOIR_CHECK(sequence.num_computed == 0 && sequence.blocks == 0 && sequence.num_tokens > 0);
  state->waiting.insert(Find(state->waiting, sequence.order), sequence);
  state->waiting_tokens += sequence.num_tokens;
}

void RemoveSequence(const SequenceOrder& order, SchedulerState* state) {
  const auto running = Find(state->running, order);
  if (IsAt(state->running, running, order)) {
    state->blocks_free += running->blocks;
    state->running.erase(running);
    return;
  }
  const auto waiting = Find(state->waiting, order);
  CHOIR_CHECK(IsAt(state->waiting, waiting, order));
  state->waiting_tokens -= waiting->num_tokens;
  state->waiting.erase(waiting);
}

}  // namespace choir
