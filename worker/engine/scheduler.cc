#include "worker/engine/scheduler.h"

#include <algorithm>
#include <span>
#include <utility>

#include "common/base/check.h"
#include "worker/engine/block_forecast.h"

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
        forecast_(state.pool),
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
  using Keys = std::span<const BlockKey>;

  static int64_t Remaining(const ScheduledSequence& s) { return s.num_tokens - s.num_computed; }

  bool Fits(int64_t blocks, size_t num_running, int64_t blocks_available) const {
    return static_cast<int64_t>(num_running) < limits_.sequences_max &&
           blocks + static_cast<int64_t>(num_running) <= blocks_available;
  }

  // Of the blocks that it may begin with: its last token is computed in any case.
  Keys CachedOf(const ScheduledSequence& s) const {
    const int64_t most =
        std::min(static_cast<int64_t>(s.keys.size()), (s.num_tokens - 1) / limits_.block_tokens);
    const Keys keys = Keys(s.keys).first(static_cast<size_t>(most));
    return keys.first(static_cast<size_t>(forecast_.NumFound(keys)));
  }

  // All its blocks but those of `cached` that somebody holds.
  int64_t CostOf(const ScheduledSequence& s, Keys cached, const BlockForecast& forecast) const {
    return BlocksFor(s.num_tokens, limits_.block_tokens) - static_cast<int64_t>(cached.size()) +
           forecast.CostOf(cached);
  }

  // Whether a more important sequence is about to compute the block that follows `cached`.
  bool IsUnderWay(const ScheduledSequence& s, Keys cached) const {
    const size_t next = cached.size();
    if (static_cast<int64_t>(next) >= (s.num_tokens - 1) / limits_.block_tokens) return false;
    if (next >= s.keys.size()) return false;
    const auto computes = [&](const ScheduledSequence& other) {
      return other.order < s.order && next < other.keys.size() && other.keys[next] == s.keys[next];
    };
    const auto running = std::span(state_.running).first(num_running_);
    return std::any_of(running.begin(), running.end(), computes) ||
           std::any_of(newcomers_.begin(), newcomers_.end(),
                       [&](const ScheduledSequence* other) { return computes(*other); });
  }

  // Makes room for the head of the queue, but only at the cost of less important classes, and only
  // when that is enough.
  void PreemptForHead() {
    if (state_.waiting.empty()) return;
    const ScheduledSequence& head = state_.waiting.front();
    const Keys cached = CachedOf(head);
    if (IsUnderWay(head, cached)) return;
    BlockForecast forecast = forecast_;
    size_t keep = num_running_;
    while (keep > 0 && !Fits(CostOf(head, cached, forecast), keep, forecast.available())) {
      const ScheduledSequence& last = state_.running[--keep];
      if (last.order.priority <= head.order.priority) return;
      forecast.Release(last.blocks.blocks());
    }
    while (num_running_ > keep) PreemptLast();
  }

  void PlanDecodes() {
    for (size_t i = 0; i < num_running_; ++i) {
      const ScheduledSequence& s = state_.running[i];
      if (Remaining(s) != 1) continue;
      const int64_t blocks = BlocksFor(s.num_tokens, limits_.block_tokens);
      const int64_t more = blocks - s.blocks.size();
      while (more > forecast_.available() && num_running_ > i) PreemptLast();
      if (num_running_ <= i) return;  // it was itself the least important one
      forecast_.Allocate(more);
      blocks_grown_ += more;
      AddChunk(s, s.num_computed, 1, blocks);
      ++plan_.num_decodes;
    }
  }

  void PreemptLast() {
    const ScheduledSequence& victim = state_.running[--num_running_];
    forecast_.Release(victim.blocks.blocks());
    plan_.preempted.push_back({victim.id, victim.order});
  }

  void PlanPrefills() {
    for (size_t i = 0; i < num_running_ && budget_ > 0; ++i) {
      const ScheduledSequence& s = state_.running[i];
      const int64_t num_tokens = std::min(Remaining(s), budget_);
      if (Remaining(s) > 1) AddChunk(s, s.num_computed, num_tokens, s.blocks.size());
    }
  }

  void PlanAdmissions() {
    size_t num_running = num_running_;
    for (const ScheduledSequence& s : state_.waiting) {
      const Keys cached = CachedOf(s);
      // What decodes took in this step came out of the blocks that are kept free for them.
      if (budget_ <= 0 ||
          !Fits(CostOf(s, cached, forecast_), num_running, forecast_.available() + blocks_grown_)) {
        return;
      }
      // Nobody overtakes a sequence that was just preempted.
      if (!plan_.preempted.empty() && plan_.preempted.back().order < s.order) return;
      const int64_t blocks = BlocksFor(s.num_tokens, limits_.block_tokens);
      const auto num_cached = static_cast<int64_t>(cached.size());
      forecast_.Share(cached);
      forecast_.Allocate(blocks - num_cached);
      ++num_running;
      if (IsUnderWay(s, cached)) continue;
      const int64_t first = num_cached * limits_.block_tokens;
      plan_.admitted.push_back({s.id, s.order, num_cached, first});
      newcomers_.push_back(&s);
      AddChunk(s, first, std::min(s.num_tokens - first, budget_), blocks);
    }
  }

  void AddChunk(const ScheduledSequence& s, int64_t first, int64_t num_tokens, int64_t blocks) {
    const bool wants_logits = first + num_tokens == s.num_tokens;
    plan_.chunks.push_back({s.id, s.order, first, num_tokens, blocks, wants_logits});
    plan_.num_tokens += num_tokens;
    plan_.num_logits += wants_logits ? 1 : 0;
    budget_ -= num_tokens;
  }

  const SchedulerState& state_;
  const SchedulerLimits& limits_;
  size_t num_running_;  // state.running[0, num_running_) are not preempted
  BlockForecast forecast_;
  int64_t blocks_grown_ = 0;  // taken by decodes
  int64_t budget_;
  std::vector<const ScheduledSequence*> newcomers_;
  StepPlan plan_;
};

}  // namespace

std::string StepPlan::ToString() const {
  std::string out;
  for (const PlannedPreemption& s : preempted) out += fmt::format("preempt {}; ", s.id.value());
  for (const PlannedAdmission& s : admitted) out += fmt::format("admit {}; ", s.id.value());
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
  for (const PlannedPreemption& p : plan.preempted) {
    CHOIR_CHECK(!state->running.empty() && state->running.back().order == p.order);
    ScheduledSequence s = std::move(state->running.back());
    state->running.pop_back();
    s.blocks.Release(&state->pool);
    s.num_computed = s.num_published = 0;
    AddWaiting(std::move(s), state);
  }
  // What newcomers found is theirs before anybody takes new blocks, which may evict.
  for (const PlannedAdmission& a : plan.admitted) {
    const auto it = Find(state->waiting, a.order);
    CHOIR_CHECK(IsAt(state->waiting, it, a.order));
    ScheduledSequence s = std::move(*it);
    state->waiting.erase(it);
    state->waiting_tokens -= s.num_tokens;
    s.blocks.ShareAll(std::span(s.keys).first(static_cast<size_t>(a.cached_blocks)), &state->pool);
    s.num_published = a.cached_blocks;
    s.num_computed = a.cached_tokens;
    state->running.insert(Find(state->running, s.order), std::move(s));
  }
  for (const PlannedChunk& c : plan.chunks) {
    const auto it = Find(state->running, c.order);
    CHOIR_CHECK(IsAt(state->running, it, c.order) && it->num_computed == c.first_position);
    CHOIR_CHECK(it->blocks.Grow(c.blocks, &state->pool));
    it->num_computed += c.num_tokens;
  }
}

void PublishComputed(const StepPlan& plan, const SchedulerLimits& limits, SchedulerState* state) {
  for (const PlannedChunk& c : plan.chunks) {
    const auto it = Find(state->running, c.order);
    CHOIR_CHECK(IsAt(state->running, it, c.order));
    const int64_t full =
        std::min(it->num_computed / limits.block_tokens, static_cast<int64_t>(it->keys.size()));
    for (int64_t& b = it->num_published; b < full; ++b) {
      it->blocks.Publish(b, it->keys[static_cast<size_t>(b)], &state->pool);
    }
  }
}

ScheduledSequence& AppendToken(const SequenceOrder& order, SchedulerState* state) {
  const auto it = Find(state->running, order);
  CHOIR_CHECK(IsAt(state->running, it, order) && it->num_computed == it->num_tokens);
  ++it->num_tokens;
  return *it;
}

const ScheduledSequence& RunningAt(const SequenceOrder& order, const SchedulerState& state) {
  const auto it = Find(state.running, order);
  CHOIR_CHECK(IsAt(state.running, it, order));
  return *it;
}

void AddWaiting(ScheduledSequence sequence, SchedulerState* state) {
  CHOIR_CHECK(sequence.num_computed == 0 && sequence.blocks.size() == 0 && sequence.num_tokens > 0);
  state->waiting_tokens += sequence.num_tokens;
  state->waiting.insert(Find(state->waiting, sequence.order), std::move(sequence));
}

void RemoveSequence(const SequenceOrder& order, SchedulerState* state) {
  const auto running = Find(state->running, order);
  if (IsAt(state->running, running, order)) {
    running->blocks.Release(&state->pool);
    state->running.erase(running);
    return;
  }
  const auto waiting = Find(state->waiting, order);
  CHOIR_CHECK(IsAt(state->waiting, waiting, order));
  state->waiting_tokens -= waiting->num_tokens;
  state->waiting.erase(waiting);
}

}  // namespace choir
