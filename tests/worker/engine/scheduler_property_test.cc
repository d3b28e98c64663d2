// Random arrivals, endings and cancels against the rules that must hold in every step; many of the
// prompts begin alike.
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
  std::vector<int32_t> tokens;
};

class World {
 public:
  explicit World(uint32_t seed) : rng_(seed) {
    limits_.step_tokens = Pick(1, 40);
    limits_.sequences_max = Pick(1, limits_.step_tokens);
    limits_.block_tokens = Pick(1, 8);
    limits_.blocks_total = Pick(4, 40);
    state_ = SchedulerState(limits_.blocks_total);
    for (std::vector<int32_t>& family : families_) {
      for (int64_t t = 0; t < limits_.blocks_total * limits_.block_tokens; ++t) {
        family.push_back(static_cast<int32_t>(Pick(0, 1000)));
      }
    }
  }

  void Arrive() {
    const uint64_t id = ++last_id_;
    const int64_t room = limits_.blocks_total * limits_.block_tokens;
    const int64_t prompt = Pick(1, room);
    const int64_t generate = Pick(1, room - prompt + 1);
    ASSERT_TRUE(CheckFits(prompt + generate - 1, limits_).ok());
    const SequenceOrder order{static_cast<int32_t>(Pick(0, 2)), id};
    Life life{order, generate, families_[Pick(0, 2)]};
    life.tokens.resize(static_cast<size_t>(prompt));
    // Some differ from their family early, some late, some not at all.
    for (int64_t t = Pick(0, prompt); t < prompt; ++t) life.tokens[static_cast<size_t>(t)] = -1;
    ScheduledSequence s{SequenceId(id), order, prompt};
    AddKeys(life, &s);
    AddWaiting(std::move(s), &state_);
    lives_[id] = std::move(life);
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
    CheckNobodyWritesWhatIsShared(plan);
    PublishComputed(plan, limits_, &state_);
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
        life.tokens.push_back(static_cast<int32_t>(Pick(0, 1)));
        AddKeys(life, &AppendToken(chunk.order, &state_));
      }
    }
    CheckState();
  }

  size_t num_living() const { return lives_.size(); }
  int64_t cached_tokens() const { return cached_tokens_; }
  const BlockPool& pool() const { return state_.pool; }
  int64_t Pick(int64_t min, int64_t max) {
    return std::uniform_int_distribution<int64_t>(min, max)(rng_);
  }

 private:
  void AddKeys(const Life& life, ScheduledSequence* s) const {
    const auto block = static_cast<size_t>(limits_.block_tokens);
    while ((s->keys.size() + 1) * block <= life.tokens.size()) {
      s->keys.push_back(ChildKey(s->keys.empty() ? RootKey("") : s->keys.back(),
                                 std::span(life.tokens).subspan(s->keys.size() * block, block),
                                 limits_.block_tokens));
    }
  }

  // Whether one more important than `s` goes on computing what `s` shares with it.
  bool WaitsForAnother(const ScheduledSequence& s, const StepPlan& plan,
                       const SchedulerState& before) const {
    const auto shares = [&](const ScheduledSequence& other) {
      return other.order < s.order && !other.keys.empty() && !s.keys.empty() &&
             other.keys[0] == s.keys[0];
    };
    return std::any_of(before.running.begin(), before.running.end(), shares) ||
           std::any_of(plan.admitted.begin(), plan.admitted.end(), [&](const auto& a) {
             return std::any_of(
                 before.waiting.begin(), before.waiting.end(),
                 [&](const auto& other) { return other.order == a.order && shares(other); });
           });
  }

  void CheckNobodyWritesWhatIsShared(const StepPlan& plan) {
    for (const PlannedChunk& c : plan.chunks) {
      const BlockTable& table = RunningAt(c.order, state_).blocks;
      const int64_t last = (c.first_position + c.num_tokens - 1) / limits_.block_tokens;
      for (int64_t b = c.first_position / limits_.block_tokens; b <= last; ++b) {
        ASSERT_EQ(state_.pool.holders(table.blocks()[static_cast<size_t>(b)]), 1);
      }
    }
  }

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
    // Strictly by class and arrival: who is passed over waits for a prefix that is under way.
    size_t w = 0;
    for (const PlannedAdmission& a : plan.admitted) {
      for (; before.waiting[w].id != a.id; ++w) {
        ASSERT_TRUE(WaitsForAnother(before.waiting[w], plan, before)) << plan.ToString();
      }
      ASSERT_LT(a.cached_tokens, before.waiting[w].num_tokens);
      cached_tokens_ += a.cached_tokens;
      ++w;
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
    int64_t waiting_tokens = 0;
    std::set<int32_t> held;
    std::set<uint64_t> all;
    for (const auto& s : state_.running) {
      held.insert(s.blocks.blocks().begin(), s.blocks.blocks().end());
      all.insert(s.id.value());
      ASSERT_LT(s.num_computed, s.num_tokens);
    }
    for (const auto& s : state_.waiting) {
      waiting_tokens += s.num_tokens;
      all.insert(s.id.value());
    }
    ASSERT_EQ(static_cast<int64_t>(held.size()), state_.pool.num_held());
    ASSERT_TRUE(state_.pool.IsConsistent());
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
  SchedulerState state_{1};
  std::vector<int32_t> families_[3];
  std::map<uint64_t, Life> lives_;
  int64_t cached_tokens_ = 0;
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
  EXPECT_EQ(world.pool().num_held(), 0);
  EXPECT_GT(world.cached_tokens(), 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerPropertyTest, testing::Range(0u, 60u));

}  // namespace
}  // namespace choir
