// Random arrivals, endings and cancels against the rules that must hold in every step.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "worker/engine/scheduler.h"
#include "worker/kv/block_table.h"

namespace choir {
namespace {

struct Life {
  SequenceOrder order;
  int64_t tokens_left = 0;  // to generate
  int64_t steps = 0;
};

class World {
 public:
  explicit World(uint32_t seed) : rng_(seed) {
    limits_.step_tokens = Pick(1, 40);
    limits_.sequences_max = Pick(1, limits_.step_tokens);
    limits_.block_tokens = Pick(1, 8);
    limits_.blocks_total = Pick(4, 40);
    state_.blocks_free = limits_.blocks_total;
  }

  void Arrive() {
    const uint64_t id = ++last_id_;
    const int64_t room = limits_.blocks_total * limits_.block_tokens;
    const int64_t prompt = Pick(1, room);
    const int64_t generate = Pick(1, room - prompt + 1);
    ASSERT_TRUE(CheckFits(prompt + generate - 1, limits_).ok());
    const SequenceOrder order{static_cast<int32_t>(Pick(0, 2)), id};
    AddWaiting({SequenceId(id), order, prompt, 0, 0}, &state_);
    lives_[id] = {order, generate, 0};
  }

  void CancelOne() {
    if (lives_.empty()) return;
    auto it = lives_.begin();
    std::advance(it, Pick(0, static_cast<int64_t>(lives_.size()) - 1));
    RemoveSequence(it->second.order, &state_);
    lives_.erase(it);
  }

  void Step() {
    const SchedulerState before = state_;
    const StepPlan plan = PlanStep(state_, limits_);
    ASSERT_EQ(plan.empty(), lives_.empty());
    CheckPlan(plan, before);
    ApplyPlan(plan, &state_);
    SchedulerState again = before;
    const StepPlan replay = PlanStep(again, limits_);
    ASSERT_EQ(plan.ToString(), replay.ToString());
    for (const PlannedChunk& chunk : plan.chunks) {
      if (!chunk.wants_logits) continue;
      Life& life = lives_.at(chunk.id.value());
      if (--life.tokens_left == 0) {
        RemoveSequence(life.order, &state_);
        lives_.erase(chunk.id.value());
      } else {
        AppendToken(chunk.order, &state_);
      }
    }
    CheckState();
  }

  size_t num_living() const { return lives_.size(); }
  int64_t Pick(int64_t min, int64_t max) {
    return std::uniform_int_distribution<int64_t>(min, max)(rng_);
  }

 private:
  void CheckPlan(const StepPlan& plan, const SchedulerState& before) {
    ASSERT_LE(plan.num_tokens, limits_.step_tokens);
    ASSERT_LE(plan.num_logits, limits_.sequences_max);
    std::set<uint64_t> in_plan, preempted;
    for (const auto& s : plan.preempted) preempted.insert(s.id.value());
    for (const PlannedChunk& c : plan.chunks) {
      ASSERT_TRUE(in_plan.insert(c.id.value()).second);
      ASSERT_EQ(preempted.count(c.id.value()), 0u);
      ASSERT_GE(c.blocks * limits_.block_tokens, c.first_position + c.num_tokens);
    }
    for (const auto& s : before.running) {  // decodes first: none that stays running is left out
      if (s.num_tokens - s.num_computed == 1 && preempted.count(s.id.value()) == 0) {
        ASSERT_EQ(in_plan.count(s.id.value()), 1u) << plan.ToString();
      }
    }
    // Strictly by class and arrival: the admitted are a prefix of those who waited.
    for (size_t i = 0; i < plan.admitted.size(); ++i) {
      ASSERT_EQ(plan.admitted[i].id, before.waiting[i].id);
    }
    if (!before.running.empty()) {  // the most important running sequence always moves
      const bool more_important_waits =
          !before.waiting.empty() &&
          before.waiting.front().order.priority < before.running.front().order.priority;
      if (!more_important_waits) {
        ASSERT_EQ(in_plan.count(before.running.front().id.value()), 1u) << plan.ToString();
      }
    }
  }

  void CheckState() {
    int64_t held = 0, waiting_tokens = 0;
    std::set<uint64_t> all;
    for (const auto& s : state_.running) {
      held += s.blocks;
      all.insert(s.id.value());
      ASSERT_LT(s.num_computed, s.num_tokens);
    }
    for (const auto& s : state_.waiting) {
      waiting_tokens += s.num_tokens;
      all.insert(s.id.value());
    }
    ASSERT_EQ(held + state_.blocks_free, limits_.blocks_total);
    ASSERT_EQ(waiting_tokens, state_.waiting_tokens);
    ASSERT_LE(static_cast<int64_t>(state_.running.size()), limits_.sequences_max);
    ASSERT_EQ(all.size(), lives_.size());
    for (const auto& [id, life] : lives_) ASSERT_EQ(all.count(id), 1u) << "lost sequence " << id;
    const auto less = [](const auto& a, const auto& b) { return a.order < b.order; };
    ASSERT_TRUE(std::is_sorted(state_.running.begin(), state_.running.end(), less));
    ASSERT_TRUE(std::is_sorted(state_.waiting.begin(), state_.waiting.end(), less));
  }

  std::mt19937 rng_;
  SchedulerLimits limits_;
  SchedulerState state_;
  std::map<uint64_t, Life> lives_;
  uint64_t last_id_ = 0;
};

class SchedulerPropertyTest : public testing::TestWithParam<uint32_t> {};

TEST_P(SchedulerPropertyTest, HoldsItsBoundsAndFinishesEverything) {
  World world(GetParam());
  for (int i = 0; i < 300; ++i) {
    if (world.Pick(0, 3) == 0 && world.num_living() < 60) world.Arrive();
    if (world.Pick(0, 15) == 0) world.CancelOne();
    world.Step();
    if (HasFatalFailure()) return;
  }
  int64_t steps = 0;  // nobody comes any more: all must end
  while (world.num_living() > 0) {
    ASSERT_LT(++steps, 200000) << world.num_living() << " sequences starve";
    world.Step();
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerPropertyTest, testing::Range(0u, 60u));

}  // namespace
}  // namespace choir
