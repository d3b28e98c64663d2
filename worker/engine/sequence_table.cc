#include "worker/engine/sequence_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"

namespace choir {
namespace {

SequenceUpdate Ending(SequenceId id, Finish finish, std::string error = {}) {
  SequenceUpdate update;
  update.id = id;
  update.finish = finish;
  update.error = std::move(error);
  return update;
}

Status CheckSampling(const SamplingParams& p, int64_t vocab) {
  for (const double v :
       {p.temperature, p.top_p, p.min_p, p.presence_penalty, p.frequency_penalty}) {
    if (!std::isfinite(v)) return InvalidArgument("a sampling parameter is not a finite number");
  }
  if (p.temperature < 0.0) return InvalidArgument("temperature {} is negative", p.temperature);
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || id >= vocab) {
      return InvalidArgument("logit_bias: token id {} is not in 0..{}", id, vocab - 1);
    }
    if (std::isnan(bias)) return InvalidArgument("logit_bias: token id {} has no number", id);
  }
  return absl::OkStatus();
}

}  // namespace

void StepRows::Clear() {
  tokens.clear();
  positions.clear();
  slots.clear();
  sequences.clear();
  logit_rows.clear();
  sampled.clear();
}

SequenceTable::SequenceTable(const TableLimits& limits)
    : limits_(limits), pool_(limits.scheduler.blocks_total) {
  CHOIR_CHECK(limits.scheduler.sequences_max <= limits.scheduler.step_tokens);
  CHOIR_CHECK(limits.context_length > 0 && limits.vocab > 0);
  state_.blocks_free = limits.scheduler.blocks_total;
}

SequenceTable::~SequenceTable() {
  std::vector<SequenceUpdate> nobody;
  EndAll(Finish::kCancelled, &nobody);
}

Status SequenceTable::Check(const SequenceRequest& request) const {
  const int64_t num_tokens = static_cast<int64_t>(request.tokens.size());
  if (request.num_prompt < 1 || request.num_prompt > num_tokens) {
    return InvalidArgument("the prompt has {} tokens of {} given; at least one is needed",
                           request.num_prompt, num_tokens);
  }
  if (request.max_tokens < 1) {
    return InvalidArgument("max_tokens {} is less than 1", request.max_tokens);
  }
  if (request.num_prompt >= limits_.context_length) {
    return InvalidArgument(
        "the prompt has {} tokens; with a context length of {} at most {} leave room for an answer",
        request.num_prompt, limits_.context_length, limits_.context_length - 1);
  }
  if (num_tokens > limits_.context_length) {
    return InvalidArgument("{} tokens are given, the context length is {}", num_tokens,
                           limits_.context_length);
  }
  for (const int32_t token : request.tokens) {
    if (token < 0 || token >= limits_.vocab) {
      return InvalidArgument("token id {} is not in 0..{}", token, limits_.vocab - 1);
    }
  }
  CHOIR_RETURN_IF_ERROR(CheckSampling(request.sampling, limits_.vocab));
  // The last token is never fed back, so it needs no place.
  const int64_t tokens_max =
      std::min(int64_t{request.num_prompt} + request.max_tokens, limits_.context_length) - 1;
  return CheckFits(std::max(tokens_max, num_tokens), limits_.scheduler);
}

void SequenceTable::Add(SequenceRequest request, std::vector<SequenceUpdate>* updates) {
  const SequenceId id = request.id;
  CHOIR_CHECK(!sequences_.contains(id));
  if (const Status status = Check(request); !status.ok()) {
    updates->push_back(Ending(id, Finish::kRefused, MessageOf(status)));
    return;
  }
  const SequenceOrder order{request.priority, ++arrivals_};
  auto sequence =
      std::make_unique<Sequence>(std::move(request), order, limits_.scheduler.block_tokens);
  const std::vector<int32_t>& tokens = sequence->request.tokens;
  if (sequence->num_generated() > 0) {
    // A replay of an answer that was complete: there is nothing left to do but to say so.
    if (const Finish finish = FinishOf(*sequence); finish != Finish::kNone) {
      updates->push_back(Ending(id, finish));
      return;
    }
    if (HasPenalties(sequence->request.sampling)) {
      for (auto it = tokens.begin() + sequence->request.num_prompt; it != tokens.end(); ++it) {
        ++sequence->counts[*it];
      }
    }
  }
  AddWaiting({id, order, static_cast<int64_t>(tokens.size()), 0, 0}, &state_);
  sequences_.emplace(id, std::move(sequence));
}

void SequenceTable::Cancel(SequenceId id, std::vector<SequenceUpdate>* updates) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  Remove(it->second.get());
  updates->push_back(Ending(id, Finish::kCancelled));
}

void SequenceTable::EndAll(Finish finish, std::vector<SequenceUpdate>* updates) {
  while (!sequences_.empty()) {
    Sequence* sequence = sequences_.begin()->second.get();
    updates->push_back(Ending(sequence->request.id, finish));
    Remove(sequence);
  }
}

void SequenceTable::Begin(const StepPlan& plan, StepRows* rows) {
  rows->Clear();
  for (const ScheduledSequence& s : plan.preempted) {
    sequences_.at(s.id)->blocks.Release(&pool_);
  }
  ApplyPlan(plan, &state_);
  for (const PlannedChunk& chunk : plan.chunks) {
    Sequence* sequence = sequences_.at(chunk.id).get();
    CHOIR_CHECK(sequence->blocks.Grow(chunk.blocks, &pool_));
    AppendChunk(chunk, sequence, rows);
  }
  CHOIR_CHECK(state_.blocks_free == pool_.num_free());  // the plan's ledger is the pool's
}

void SequenceTable::AppendChunk(const PlannedChunk& chunk, Sequence* sequence,
                                StepRows* rows) const {
  const int32_t row_begin = static_cast<int32_t>(rows->tokens.size());
  const int64_t end = chunk.first_position + chunk.num_tokens;
  for (int64_t p = chunk.first_position; p < end; ++p) {
    rows->tokens.push_back(sequence->request.tokens[static_cast<size_t>(p)]);
    rows->positions.push_back(static_cast<int32_t>(p));
    rows->slots.push_back(sequence->blocks.Slot(p));
  }
  const int32_t count = static_cast<int32_t>(chunk.num_tokens);
  rows->sequences.push_back({.row_begin = row_begin,
                             .row_count = count,
                             .first_position = static_cast<int32_t>(chunk.first_position),
                             .block_table = sequence->blocks.data()});
  if (chunk.wants_logits) {
    rows->logit_rows.push_back(row_begin + count - 1);
    rows->sampled.push_back(sequence);
  }
}

Finish SequenceTable::FinishOf(const Sequence& sequence) const {
  const SequenceRequest& r = sequence.request;
  if (std::find(r.stop_token_ids.begin(), r.stop_token_ids.end(), r.tokens.back()) !=
      r.stop_token_ids.end()) {
    return Finish::kStop;
  }
  const bool full = static_cast<int64_t>(r.tokens.size()) >= limits_.context_length;
  return full || sequence.num_generated() >= r.max_tokens ? Finish::kLength : Finish::kNone;
}

void SequenceTable::Commit(const StepRows& rows, std::span<SampledToken> tokens,
                           std::vector<SequenceUpdate>* updates) {
  CHOIR_CHECK(rows.sampled.size() == tokens.size());
  updates->reserve(updates->size() + tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    Sequence* sequence = rows.sampled[i];
    const SamplingParams& sampling = sequence->request.sampling;
    sequence->request.tokens.push_back(tokens[i].id);
    if (HasPenalties(sampling)) ++sequence->counts[tokens[i].id];
    SequenceUpdate& update = updates->emplace_back();
    update.id = sequence->request.id;
    update.tokens.push_back(tokens[i].id);
    if (sampling.num_logprobs >= 0) update.logprobs.push_back(std::move(tokens[i].logprob));
    update.finish = FinishOf(*sequence);
    if (update.finish != Finish::kNone) {
      Remove(sequence);
    } else {
      AppendToken(sequence->order, &state_);
    }
  }
}

void SequenceTable::Remove(Sequence* sequence) {
  sequence->blocks.Release(&pool_);
  RemoveSequence(sequence->order, &state_);
  sequences_.erase(sequence->request.id);
}

EngineLoad SequenceTable::load() const {
  EngineLoad load;
  load.running = static_cast<uint32_t>(state_.running.size());
  load.waiting = static_cast<uint32_t>(state_.waiting.size());
  load.kv_tokens_used = static_cast<uint64_t>(pool_.num_held() * limits_.scheduler.block_tokens);
  int64_t waiting_tokens = state_.waiting_tokens;
  for (const ScheduledSequence& s : state_.running) {
    waiting_tokens += s.num_tokens - s.num_computed - 1;  // the last known token is a decode's
  }
  load.waiting_tokens = static_cast<uint64_t>(std::max<int64_t>(waiting_tokens, 0));
  return load;
}

}  // namespace choir
