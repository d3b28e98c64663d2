// SequenceTable: all sequences of one engine with their tokens, blocks and place in the schedule;
// the engine without its thread, its ranks and its model. A step is Plan (pure), Begin (blocks
// move, the batch's rows are laid out), the model's work, Commit (tokens, endings). Owner thread
// only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "worker/engine/sampler.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/types.h"
#include "worker/kv/block_pool.h"
#include "worker/kv/block_table.h"
#include "worker/model/model.h"

namespace choir {

struct TableLimits {
  SchedulerLimits scheduler;
  int64_t context_length = 0;
  int64_t vocab = 0;
};

struct Sequence {
  Sequence(SequenceRequest r, SequenceOrder o, int64_t block_tokens)
      : request(std::move(r)), order(o), blocks(block_tokens) {}

  int64_t num_generated() const {
    return static_cast<int64_t>(request.tokens.size()) - request.num_prompt;
  }

  SequenceRequest request;  // request.tokens grows with what is generated
  SequenceOrder order;
  BlockTable blocks;
  TokenCounts counts;  // of generated tokens; kept only where penalties ask for it
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
  void Add(SequenceRequest request, std::vector<SequenceUpdate>* updates);
  void Cancel(SequenceId id, std::vector<SequenceUpdate>* updates);  // unknown ids: nothing
  void EndAll(Finish finish, std::vector<SequenceUpdate>* updates);

  StepPlan Plan() const { return PlanStep(state_, limits_.scheduler); }
  void Begin(const StepPlan& plan, StepRows* rows);
  // tokens[i] belongs to rows.sampled[i].
  void Commit(const StepRows& rows, std::span<SampledToken> tokens,
              std::vector<SequenceUpdate>* updates);

  EngineLoad load() const;
  int64_t num_waiting() const { return static_cast<int64_t>(state_.waiting.size()); }
  const BlockPool& blocks() const { return pool_; }

 private:
  Status Check(const SequenceRequest& request) const;
  void AppendChunk(const PlannedChunk& chunk, Sequence* sequence, StepRows* rows) const;
  Finish FinishOf(const Sequence& sequence) const;
  void Remove(Sequence* sequence);

  const TableLimits limits_;
  BlockPool pool_;
  SchedulerState state_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  uint64_t arrivals_ = 0;
};

}  // namespace choir
