#include "router/relay/relay.h"

#include <algorithm>
#include <set>
#include <utility>

#include "common/base/check.h"

namespace choir {

const char* LossCauseName(LossCause cause) {
  switch (cause) {
    case LossCause::kWorkerLost:
      return "worker_lost";
    case LossCause::kEpochEnded:
      return "epoch_ended";
    case LossCause::kRefused:
      return "refused";
  }
  return "?";
}

Relay::Relay(RelayRequest request, RelayLimits limits, Placer* placer, uint64_t* next_id)
    : request_(std::move(request)), limits_(limits), placer_(placer), next_id_(next_id) {
  CHOIR_CHECK(request_.num_choices >= 1 && !request_.prompt.empty());
  request_.text.max_tokens = request_.sampling.max_tokens;
  request_.text.stop_token_ids = request_.sampling.stop_token_ids;
  choices_.reserve(request_.num_choices);
  for (uint32_t i = 0; i < request_.num_choices; ++i) {
    choices_.push_back(std::make_unique<Choice>(request_.text));
  }
  finish_reasons_.resize(request_.num_choices);
  echo_chars_ =
      static_cast<uint32_t>(std::count_if(request_.echo.begin(), request_.echo.end(), [](char c) {
        return (static_cast<uint8_t>(c) & 0xC0) != 0x80;
      }));
}

void Relay::Start(MonoTime now, Actions* out) {
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    ResumedChoice resumed;
    for (const ResumedChoice& r : request_.resume) {
      if (r.choice == i) resumed = r;
    }
    Begin(i, resumed, out);
  }
  FinishIfDone(out);
  PlaceAll(now, out);
}

// The echo, and the text of tokens that another router delivered, made again; what the client has
// of it is left out.
void Relay::Begin(uint32_t index, const ResumedChoice& resumed, Actions* out) {
  Choice& choice = *choices_[index];
  ChoiceDelta delta;
  delta.choice = index;
  delta.text = request_.echo;
  for (const int32_t token : resumed.token_ids) {
    if (choice.finished) break;
    choice.tokens.push_back(token);
    choice.finished = Append(choice.text.Push(token), &delta);
  }
  if (request_.sampling.max_tokens == 0) {  // the prompt is all that was asked for
    delta.finish_reason = "length";
    choice.finished = true;
  }
  finish_reasons_[index] = delta.finish_reason;
  delta.text.erase(0, resumed.text_bytes);
  delta.reasoning.erase(0, resumed.reasoning_bytes);
  if (!delta.text.empty() || !delta.reasoning.empty() || choice.finished) {
    out->push_back(DeliverAction{std::move(delta)});
  }
}

void Relay::PlaceAll(MonoTime now, Actions* out) {
  for (uint32_t i = 0; i < choices_.size() && !over_; ++i) {
    Choice& choice = *choices_[i];
    if (choice.finished || choice.sequence) continue;
    std::erase_if(choice.passed, [&](const Passed& p) { return p.until <= now; });
    PlaceOne(i, out);
  }
}

void Relay::PlaceOne(uint32_t index, Actions* out) {
  Choice& choice = *choices_[index];
  PlaceQuery query;
  query.num_tokens = static_cast<uint32_t>(request_.prompt.size() + choice.tokens.size());
  query.numerics_id = numerics_id_;
  query.prefix = request_.prefix.get();
  query.session = request_.session;
  for (const Passed& p : choice.passed) query.passed.push_back(p.placement);
  for (const auto& other : choices_) {
    if (other->sequence) query.siblings.push_back({other->placement, other->tokens.empty()});
  }
  std::optional<Placement> placement = placer_->Place(query);
  if (!placement) {
    if (IsRefusedEverywhere(choice)) {
      Fail(Overloaded("queue_full", "every ready rank refused it: " + choice.last_error, 1), out);
    }
    return;
  }
  const SequenceId id((*next_id_)++);
  choice.sequence = id;
  choice.placement = std::move(*placement);
  by_sequence_[id] = index;
  SequenceSubmit submit;
  submit.id = id;
  submit.token_ids.reserve(query.num_tokens);
  submit.token_ids = request_.prompt;
  submit.token_ids.insert(submit.token_ids.end(), choice.tokens.begin(), choice.tokens.end());
  submit.num_prompt_tokens = static_cast<uint32_t>(request_.prompt.size());
  submit.sampling = request_.sampling;
  submit.choice = index;
  submit.request_id = request_.request_id;
  submit.cache_salt = request_.cache_salt;
  out->push_back(SubmitAction{choice.placement.worker, std::move(submit),
                              choice.placement.counted_tokens, choice.placement.predicted_tokens});
}

// A fresh choice that each ready rank just said no to fails at once. One that is under way waits,
// and so does one that a rank was lost under.
bool Relay::IsRefusedEverywhere(const Choice& choice) {
  return choice.tokens.empty() && !choice.passed.empty() &&
         std::all_of(choice.passed.begin(), choice.passed.end(),
                     [](const Passed& p) { return p.refused; });
}

void Relay::OnUpdate(const SequenceUpdate& update, MonoTime now, Actions* out) {
  const auto it = by_sequence_.find(update.id);
  if (over_ || it == by_sequence_.end()) return;
  const uint32_t index = it->second;
  Choice& choice = *choices_[index];
  if (index == 0 && !cached_tokens_ && !update.token_ids.empty()) {
    cached_tokens_ = update.cached_tokens;
  }
  ChoiceDelta delta;
  delta.choice = index;
  for (size_t i = 0; i < update.token_ids.size() && !choice.finished; ++i) {
    choice.finished = Commit(choice, update, i, &delta);
  }
  if (!choice.finished &&
      (update.end == SequenceEnd::kStop || update.end == SequenceEnd::kLength)) {
    // The worker's own limit: a full context.
    choice.finished =
        Append(choice.text.End(update.end == SequenceEnd::kStop ? "stop" : "length"), &delta);
  }
  const bool ended_there = update.end != SequenceEnd::kNone;
  const SequenceId id = update.id;
  if (choice.finished) {
    finish_reasons_[index] = delta.finish_reason;
    if (!ended_there) out->push_back(CancelSequenceAction{choice.placement.worker, id});
    by_sequence_.erase(id);
    choice.sequence.reset();
  }
  if (!delta.token_ids.empty() || choice.finished) out->push_back(DeliverAction{std::move(delta)});
  if (choice.finished) {
    FinishIfDone(out);
  } else if (ended_there) {
    // Ended before its time (also by a cancel that is not ours): somebody else has to go on.
    choice.last_error = update.error;
    const bool refused = update.end == SequenceEnd::kRefused;
    Replay(index, refused ? LossCause::kRefused : LossCause::kEpochEnded, now, out);
  }
}

std::vector<RuleHits> Relay::content_hits() const {
  std::vector<RuleHits> hits;
  for (const auto& choice : choices_) choice->text.AddHits(&hits);
  return hits;
}

// True when the token ends the choice.
bool Relay::Commit(Choice& choice, const SequenceUpdate& update, size_t i, ChoiceDelta* delta) {
  const int32_t token = update.token_ids[i];
  if (numerics_id_.empty()) numerics_id_ = choice.placement.numerics_id;
  choice.fruitless_attempts = 0;
  choice.tokens.push_back(token);
  delta->token_ids.push_back(token);
  AddLogprob(choice, update, i, delta);
  return Append(choice.text.Push(token), delta);
}

bool Relay::Append(ChoiceText::Piece piece, ChoiceDelta* delta) {
  delta->text += piece.text;
  delta->reasoning += piece.reasoning;
  delta->finish_reason = std::move(piece.finish_reason);
  return !delta->finish_reason.empty();
}

void Relay::AddLogprob(Choice& choice, const SequenceUpdate& update, size_t i, ChoiceDelta* delta) {
  if (request_.sampling.num_logprobs < 0) return;
  if (i >= update.logprobs.size()) return choice.logprobs.clear();  // those before are of no use
  const StepLogprob& from = update.logprobs[i];
  delta->logprobs.push_back(MakeLogprob(from, update.token_ids[i], choice.text.num_chars()));
  if (!request_.keep_logprobs) return;
  kept_logprob_bytes_ += sizeof(StepLogprob) + from.top_ids.size() * 2 * sizeof(float);
  if (kept_logprob_bytes_ <= limits_.kept_logprob_bytes_max) {
    choice.logprobs.push_back(from);
  } else {  // a part of them is of no use
    for (const auto& any : choices_) any->logprobs = {};
  }
}

TokenLogprob Relay::MakeLogprob(const StepLogprob& from, int32_t token, uint32_t num_chars) const {
  const Tokenizer& tokenizer = *request_.text.tokenizer;
  TokenLogprob to;
  to.token_id = token;
  to.logprob = from.logprob;
  to.bytes = tokenizer.TokenBytes(token);
  to.text_offset = echo_chars_ + num_chars;
  const size_t n = std::min({from.top_ids.size(), from.top_logprobs.size(),
                             static_cast<size_t>(request_.sampling.num_logprobs)});
  for (size_t k = 0; k < n; ++k) {
    to.top.push_back(
        {from.top_ids[k], from.top_logprobs[k], tokenizer.TokenBytes(from.top_ids[k])});
  }
  return to;
}

void Relay::OnLost(SequenceId id, LossCause cause, MonoTime now, Actions* out) {
  const auto it = by_sequence_.find(id);
  if (over_ || it == by_sequence_.end()) return;
  Replay(it->second, cause, now, out);
}

void Relay::Replay(uint32_t index, LossCause cause, MonoTime now, Actions* out) {
  Choice& choice = *choices_[index];
  by_sequence_.erase(*choice.sequence);
  choice.sequence.reset();
  if (cause != LossCause::kRefused) {
    ++choice.fruitless_attempts;
    ++replays_;
  }
  std::erase_if(choice.passed, [&](const Passed& p) { return p.until <= now; });
  choice.passed.push_back({choice.placement, now + limits_.cooldown, cause == LossCause::kRefused});
  if (choice.fruitless_attempts > limits_.fruitless_attempts_max) {
    Fail(Overloaded("not_ready", "every rank that began this request was lost or gave it up", 1),
         out);
    return;
  }
  if (RetryRefused(now)) {
    Fail(Overloaded("not_ready",
                    "the request was lost before its first token, and so many others were lately "
                    "that it is not run again: the router's retry budget is used up",
                    1),
         out);
    return;
  }
  PlaceAll(now, out);
}

// One that is under way goes on whatever the budget says.
bool Relay::RetryRefused(MonoTime now) {
  const bool fresh = std::all_of(choices_.begin(), choices_.end(),
                                 [](const auto& c) { return c->tokens.empty() && !c->finished; });
  if (!fresh || retried_at_ == now) return false;
  retried_at_ = now;
  return !placer_->MayRetry(now);
}

void Relay::OnPlaceable(MonoTime now, Actions* out) {
  if (!over_) PlaceAll(now, out);
}

void Relay::OnTimer(MonoTime now, Actions* out) {
  if (over_) return;
  if (now >= request_.deadline) {
    ApiError error = DeadlinePassed(request_.timeout_seconds);
    if (waiting()) {
      error.message += numerics_id_.empty() ? "; it waited for a rank that is ready"
                                            : "; it waited for a ready rank with numerics id " +
                                                  numerics_id_ + ", on which it could go on";
    }
    Fail(std::move(error), out);
    return;
  }
  PlaceAll(now, out);
}

MonoTime Relay::NextTimer() const {
  MonoTime next = request_.deadline;
  for (const auto& choice : choices_) {
    if (choice->finished || choice->sequence) continue;
    for (const Passed& p : choice->passed) next = std::min(next, p.until);
  }
  return next;
}

bool Relay::waiting() const {
  return !over_ && std::any_of(choices_.begin(), choices_.end(),
                               [](const auto& c) { return !c->finished && !c->sequence; });
}

Usage Relay::usage() const {
  Usage usage;
  usage.prompt_tokens = static_cast<uint32_t>(request_.prompt.size());
  usage.cached_tokens = cached_tokens_.value_or(0);
  for (const auto& choice : choices_) {
    usage.output_tokens += static_cast<uint32_t>(choice->tokens.size());
    usage.reasoning_tokens += choice->text.reasoning_tokens();
  }
  return usage;
}

void Relay::FinishIfDone(Actions* out) {
  if (!std::all_of(choices_.begin(), choices_.end(), [](const auto& c) { return c->finished; })) {
    return;
  }
  over_ = true;
  out->push_back(FinishAction{usage()});
}

void Relay::CancelAll(Actions* out) {
  for (const auto& [id, index] : by_sequence_) {
    out->push_back(CancelSequenceAction{choices_[index]->placement.worker, id});
  }
  by_sequence_.clear();
  for (const auto& choice : choices_) choice->sequence.reset();
}

void Relay::Fail(ApiError error, Actions* out) {
  CancelAll(out);
  over_ = true;
  out->push_back(FailAction{std::move(error)});
}

void Relay::Abort(const ApiError& error, Actions* out) {
  if (!over_) Fail(error, out);
}

}  // namespace choir
