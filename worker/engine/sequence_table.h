// SequenceTable: all sequences of one engine with their tokens, blocks and place in the schedule;
// the engine without its thread, its ranks and its model. A step is Plan (pure), Begin (blocks
// move, the batch's rows are laid out), the model's work, Commit (tokens, endings). Owner thread
// only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "worker/engine/sampler.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/types.h"
#include "worker/kv/block_pool.h"
#include "worker/model/model.h"

namespace choir {

struct TableLimits {
  SchedulerLimits scheduler;
  int64_t context_length = 0;
  int64_t vocab = 0;
  bool prefix_cache = true;
  bool kv_by_role = false;  // KvLayout::by_role
};

// Tokens of the sequences that were admitted, and those of them found in the pool. A sequence
// counts when it is admitted for the first time.
struct PrefixStats {
  uint64_t query_tokens = 0;
  uint64_t hit_tokens = 0;
};

struct Sequence {
  Sequence(SequenceRequest r, SequenceOrder o) : request(std::move(r)), order(o) {}

  int64_t num_generated() const {
    return static_cast<int64_t>(request.tokens.size()) - request.num_prompt;
  }

  SequenceRequest request;  // request.tokens grows with what is generated
  SequenceOrder order;
  TokenCounts counts;  // of generated tokens; kept only where penalties ask for it
  std::optional<int64_t> cached_tokens;  // found when it was first admitted
};

// The rows of a step, as ModelBatch points at them. Reused from step to step.
struct StepRows {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<int64_t> slots;
  std::vector<AttentionSequence> sequences;
  std::vector<int32_t> logit_rows;
  std::vector<Sequence*> sampled;  // whose logits the logit_rows are

  void Clear();
};

class SequenceTable {
 public:
  explicit SequenceTable(const TableLimits& limits);
  ~SequenceTable();
  SequenceTable(const SequenceTable&) = delete;
  SequenceTable& operator=(const SequenceTable&) = delete;

  // What ends at once (refused, nothing left to generate) ends in `updates`.
  // REQUIRES: no living sequence has this id.
  void Add(SequenceRequest request, std::vector<SequenceOutput>* updates);
  void Cancel(SequenceId id, std::vector<SequenceOutput>* updates);  // unknown ids: nothing
  void EndAll(Finish finish, std::vector<SequenceOutput>* updates);

  StepPlan Plan() const { return PlanStep(state_, limits_.scheduler); }
  void Begin(const StepPlan& plan, StepRows* rows);
  // The plan's tokens are computed; tokens[i] belongs to rows.sampled[i].
  void Commit(const StepPlan& plan, const StepRows& rows, std::span<SampledToken> tokens,
              std::vector<SequenceOutput>* updates);

  EngineLoad load() const;
  int64_t num_waiting() const { return static_cast<int64_t>(state_.waiting.size()); }
  const BlockPool& blocks() const { return state_.pool; }
  const PrefixStats& prefix_stats() const { return prefix_stats_; }

 private:
  Status Check(const SequenceRequest& request) const;
  void CountAdmission(const PlannedAdmission& admission);
  void AppendChunk(const PlannedChunk& chunk, Sequence* sequence, StepRows* rows) const;
  void AddKeys(const Sequence& sequence, ScheduledSequence* scheduled) const;
  Finish FinishOf(const Sequence& sequence) const;
  void Remove(Sequence* sequence);

  const TableLimits limits_;
  SchedulerState state_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  uint64_t arrivals_ = 0;
  PrefixStats prefix_stats_;
};

}  // namespace choir
