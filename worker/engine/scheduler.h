// Scheduler: which sequences compute which tokens in the next step. Pure: a plan is a function of
// the state (which owns the block pool) and the limits, can be printed, and applied to a copy of
// the state gives the same next state (a replay).
//
// The rules, in order:
//  1. Every running decode gets its token, most important first (smaller priority, then earlier
//     arrival). When blocks run out, the least important running sequence is preempted: it gives
//     back all blocks and waits at its old place; later its prompt and generated tokens are
//     computed anew.
//  2. Running prefills get chunks of what is left of the step's token budget, most important first.
//  3. Waiting sequences are admitted strictly in order, each with the blocks of all its known
//     tokens, as long as seats, budget and blocks last. One block for each running sequence stays
//     free, so that a newcomer is not preempted by the next block its elders need. For the head of
//     the queue, running sequences of less important classes are preempted.
//  4. A newcomer begins after the longest prefix whose blocks the pool knows; at least its last
//     token is computed. Blocks of the prefix that others hold cost nothing. When the next block of
//     its prefix is one that a more important running sequence is about to compute, it waits for
//     that one, its seat and blocks kept from those behind it: a shared prompt is computed once.
// Why none starves: the most important running sequence can always take the blocks of all others,
// the head of the queue is never overtaken, and what can never fit is refused before it waits
// (CheckFits). Priority classes are strict: fairness among them is the router's.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/engine/types.h"
#include "worker/kv/block_table.h"

namespace choir {

struct SchedulerLimits {
  int64_t step_tokens = 512;
  int64_t sequences_max =
      256;  // running at once; at most step_tokens, else decodes would not fit a step
  int64_t block_tokens = 32;
  int64_t blocks_total = 0;
};

// Importance: smaller comes first. Arrivals are unique, so no two are equal.
struct SequenceOrder {
  int32_t priority = 0;
  uint64_t arrival = 0;
  auto operator<=>(const SequenceOrder&) const = default;
};

struct ScheduledSequence {
  SequenceId id;
  SequenceOrder order;
  int64_t num_tokens = 0;    // known: prompt and generated
  int64_t num_computed = 0;  // of them, those whose KV lies in the pool; < num_tokens between steps
  std::vector<BlockKey> keys;  // of the blocks that the known tokens fill; none: nothing is cached
  BlockTable blocks;           // held
  int64_t num_published = 0;   // of them, from the first: found by their keys
};

// Both lists ascend in order. Waiting sequences have computed nothing and hold nothing.
struct SchedulerState {
  explicit SchedulerState(int64_t num_blocks) : pool(num_blocks) {}

  std::vector<ScheduledSequence> running;
  std::deque<ScheduledSequence> waiting;
  int64_t waiting_tokens = 0;  // known tokens of all waiting
  BlockPool pool;
};

struct PlannedChunk {
  SequenceId id;
  SequenceOrder order;
  int64_t first_position = 0;
  int64_t num_tokens = 0;
  int64_t blocks = 0;         // to hold before the chunk is computed
  bool wants_logits = false;  // its last token is the last known one
};

struct PlannedPreemption {
  SequenceId id;
  SequenceOrder order;
};

struct PlannedAdmission {
  SequenceId id;
  SequenceOrder order;
  int64_t cached_blocks = 0;  // found in the pool
  int64_t cached_tokens = 0;
};

struct StepPlan {
  std::vector<PlannedPreemption> preempted;  // least important first
  std::vector<PlannedAdmission> admitted;    // most important first
  std::vector<PlannedChunk> chunks;          // in the order of the batch's rows
  int64_t num_tokens = 0;
  int64_t num_decodes = 0;  // chunks.front(num_decodes) are decodes
  int64_t num_logits = 0;

  bool empty() const { return chunks.empty(); }
  // "preempt 7; admit 9; 3@17+1! 9@0+64": id @ first position + tokens, ! wants logits. What was
  // admitted at another position than 0 found the tokens before it in the pool.
  std::string ToString() const;
};

// InvalidArgument when a sequence of up to `tokens_max` tokens in the pool would not fit all of it.
Status CheckFits(int64_t tokens_max, const SchedulerLimits& limits);

// Empty only when there is no sequence. REQUIRES: every sequence passed CheckFits.
StepPlan PlanStep(const SchedulerState& state, const SchedulerLimits& limits);

// The state in which the plan's tokens are computed: blocks have moved, nothing was sampled yet.
void ApplyPlan(const StepPlan& plan, SchedulerState* state);

// After the plan's tokens were computed: their full blocks can be found from now on.
void PublishComputed(const StepPlan& plan, const SchedulerLimits& limits, SchedulerState* state);

// One sampled token more; the caller adds the key of a block that it fills. Valid until the state
// changes. REQUIRES: running, all known tokens computed.
ScheduledSequence& AppendToken(const SequenceOrder& order, SchedulerState* state);

const ScheduledSequence& RunningAt(const SequenceOrder& order, const SchedulerState& state);
void AddWaiting(ScheduledSequence sequence, SchedulerState* state);
// From wherever it is; its blocks go back. REQUIRES: there.
void RemoveSequence(const SequenceOrder& order, SchedulerState* state);

}  // namespace choir
