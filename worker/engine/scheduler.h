// Scheduler: which sequences compute which tokens in the next step. Pure: a plan is a function of
// the state and the limits, can be printed, and applied to a copy of the state gives the same next
// state (a replay).
//
// The rules, in order:
//  1. Every running decode gets its token, most important first (smaller priority, then earlier
//  arrival).
//     When blocks run out, the least important running sequence is preempted: it gives back all
//     blocks and waits at its old place; later its prompt and generated tokens are computed anew.
//  2. Running prefills get chunks of what is left of the step's token budget, most important first.
//  3. Waiting sequences are admitted strictly in order, each with the blocks of all its known
//  tokens, as long
//     as seats, budget and blocks last. One block for each running sequence stays free, so that a
//     newcomer is not preempted by the next block its elders need. For the head of the queue,
//     running sequences of less important classes are preempted.
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
  int64_t blocks = 0;        // held
};

// Both lists ascend in order. Waiting sequences have computed nothing and hold nothing.
struct SchedulerState {
  std::vector<ScheduledSequence> running;
  std::deque<ScheduledSequence> waiting;
  int64_t waiting_tokens = 0;  // known tokens of all waiting
  int64_t blocks_free = 0;
};

struct PlannedChunk {
  SequenceId id;
  SequenceOrder order;
  int64_t first_position = 0;
  int64_t num_tokens = 0;
  int64_t blocks = 0;         // to hold before the chunk is computed
  bool wants_logits = false;  // its last token is the last known one
};

struct StepPlan {
  std::vector<ScheduledSequence> preempted;  // as they were; least important first
  std::vector<ScheduledSequence> admitted;   // as they waited
  std::vector<PlannedChunk> chunks;          // in the order of the batch's rows
  int64_t num_tokens = 0;
  int64_t num_decodes = 0;  // chunks.front(num_decodes) are decodes
  int64_t num_logits = 0;

  bool empty() const { return chunks.empty(); }
  // "preempt 7; admit 9; 3@17+1! 9@0+64": id @ first position + tokens, ! wants logits.
  std::string ToString() const;
};

// InvalidArgument when a sequence of up to `tokens_max` tokens in the pool would not fit all of it.
Status CheckFits(int64_t tokens_max, const SchedulerLimits& limits);

// Empty only when there is no sequence. REQUIRES: every sequence passed CheckFits.
StepPlan PlanStep(const SchedulerState& state, const SchedulerLimits& limits);

// The state after the plan's tokens were computed, before anything was sampled.
void ApplyPlan(const StepPlan& plan, SchedulerState* state);

// One sampled token more. REQUIRES: running, all known tokens computed.
void AppendToken(const SequenceOrder& order, SchedulerState* state);

void AddWaiting(const ScheduledSequence& sequence, SchedulerState* state);
// From wherever it is; its blocks become free. REQUIRES: there.
void RemoveSequence(const SequenceOrder& order, SchedulerState* state);

}  // namespace choir
