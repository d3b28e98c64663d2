#include "worker/engine/sequence_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"

namespace choir {
namespace {

SequenceOutput Ending(SequenceId id, Finish finish, std::string error = {}) {
  SequenceOutput update;
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
    : limits_(limits), state_(limits.scheduler.blocks_total) {
  CHOIR_CHECK(limits.scheduler.sequences_max <= limits.scheduler.step_tokens);
  CHOIR_CHECK(limits.context_length > 0 && limits.vocab > 0);
}

SequenceTable::~SequenceTable() {
  std::vector<SequenceOutput> nobody;
  EndAll(Finish::kCancelled, &nobody);
  CHOIR_CHECK(state_.pool.num_held() == 0);
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

void SequenceTable::Add(SequenceRequest request, std::vector<SequenceOutput>* updates) {
  const SequenceId id = request.id;
  CHOIR_CHECK(!sequences_.contains(id));
  if (const Status status = Check(request); !status.ok()) {
    updates->push_back(Ending(id, Finish::kRefused, MessageOf(status)));
    return;
  }
  const SequenceOrder order{request.priority, ++arrivals_};
  auto sequence = std::make_unique<Sequence>(std::move(request), order);
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
  ScheduledSequence scheduled;
  scheduled.id = id;
  scheduled.order = order;
  scheduled.num_tokens = static_cast<int64_t>(tokens.size());
  AddKeys(*sequence, &scheduled);
  AddWaiting(std::move(scheduled), &state_);
  sequences_.emplace(id, std::move(sequence));
}

// Keys of the blocks that the known tokens fill and that have none yet.
void SequenceTable::AddKeys(const Sequence& sequence, ScheduledSequence* scheduled) const {
  if (!limits_.prefix_cache) return;
  const SequenceRequest& r = sequence.request;
  const int64_t block_tokens = limits_.scheduler.block_tokens;
  std::vector<BlockKey>& keys = scheduled->keys;
  const auto full = static_cast<size_t>(scheduled->num_tokens / block_tokens);
  while (keys.size() < full) {
    const int64_t first = static_cast<int64_t>(keys.size()) * block_tokens;
    const int64_t num_prompt = limits_.kv_by_role
                                   ? std::clamp<int64_t>(r.num_prompt - first, 0, block_tokens)
                                   : block_tokens;
    keys.push_back(ChildKey(
        keys.empty() ? RootKey(r.cache_salt) : keys.back(),
        std::span(r.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(block_tokens)),
        num_prompt));
  }
}

void SequenceTable::Cancel(SequenceId id, std::vector<SequenceOutput>* updates) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  Remove(it->second.get());
  updates->push_back(Ending(id, Finish::kCancelled));
}

void SequenceTable::EndAll(Finish finish, std::vector<SequenceOutput>* updates) {
  while (!sequences_.empty()) {
    Sequence* sequence = sequences_.begin()->second.get();
    updates->push_back(Ending(sequence->request.id, finish));
    Remove(sequence);
  }
}

void SequenceTable::Begin(const StepPlan& plan, StepRows* rows) {
  rows->Clear();
  ApplyPlan(plan, &state_);
  for (const PlannedAdmission& admission : plan.admitted) CountAdmission(admission);
  for (const PlannedChunk& chunk : plan.chunks) {
    AppendChunk(chunk, sequences_.at(chunk.id).get(), rows);
  }
}

void SequenceTable::CountAdmission(const PlannedAdmission& admission) {
  Sequence& sequence = *sequences_.at(admission.id);
  if (sequence.cached_tokens) return;  // it was preempted
  sequence.cached_tokens = admission.cached_tokens;
  if (!limits_.prefix_cache) return;
  prefix_stats_.query_tokens += sequence.request.tokens.size();
  prefix_stats_.hit_tokens += static_cast<uint64_t>(admission.cached_tokens);
}

void SequenceTable::AppendChunk(const PlannedChunk& chunk, Sequence* sequence,
                                StepRows* rows) const {
  const int32_t row_begin = static_cast<int32_t>(rows->tokens.size());
  const int64_t end = chunk.first_position + chunk.num_tokens;
  const BlockTable& blocks = RunningAt(chunk.order, state_).blocks;
  for (int64_t p = chunk.first_position; p < end; ++p) {
    rows->tokens.push_back(sequence->request.tokens[static_cast<size_t>(p)]);
    rows->positions.push_back(static_cast<int32_t>(p));
    rows->slots.push_back(blocks.Slot(p, limits_.scheduler.block_tokens));
  }
  const int32_t count = static_cast<int32_t>(chunk.num_tokens);
  rows->sequences.push_back({.row_begin = row_begin,
                             .row_count = count,
                             .first_position = static_cast<int32_t>(chunk.first_position),
                             .block_table = blocks.blocks().data()});
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

void SequenceTable::Commit(const StepPlan& plan, const StepRows& rows,
                           std::span<SampledToken> tokens, std::vector<SequenceOutput>* updates) {
  CHOIR_CHECK(rows.sampled.size() == tokens.size());
  PublishComputed(plan, limits_.scheduler, &state_);
  updates->reserve(updates->size() + tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    Sequence* sequence = rows.sampled[i];
    const SamplingParams& sampling = sequence->request.sampling;
    sequence->request.tokens.push_back(tokens[i].id);
    if (HasPenalties(sampling)) ++sequence->counts[tokens[i].id];
    SequenceOutput& update = updates->emplace_back();
    update.id = sequence->request.id;
    update.tokens.push_back(tokens[i].id);
    if (sampling.num_logprobs >= 0) update.logprobs.push_back(std::move(tokens[i].logprob));
    update.cached_tokens = static_cast<int32_t>(
        std::min<int64_t>(sequence->cached_tokens.value_or(0), sequence->request.num_prompt));
    update.finish = FinishOf(*sequence);
    if (update.finish != Finish::kNone) {
      Remove(sequence);
    } else {
      AddKeys(*sequence, &AppendToken(sequence->order, &state_));
    }
  }
}

void SequenceTable::Remove(Sequence* sequence) {
  RemoveSequence(sequence->order, &state_);
  sequences_.erase(sequence->request.id);
}

EngineLoad SequenceTable::load() const {
  EngineLoad load;
  load.running = static_cast<uint32_t>(state_.running.size());
  load.waiting = static_cast<uint32_t>(state_.waiting.size());
  load.kv_tokens_used =
      static_cast<uint64_t>(state_.pool.num_held() * limits_.scheduler.block_tokens);
  int64_t waiting_tokens = state_.waiting_tokens;
  for (const ScheduledSequence& s : state_.running) {
    waiting_tokens += s.num_tokens - s.num_computed - 1;  // the last known token is a decode's
  }
  load.waiting_tokens = static_cast<uint64_t>(std::max<int64_t>(waiting_tokens, 0));
  return load;
}

}  // namespace choir
