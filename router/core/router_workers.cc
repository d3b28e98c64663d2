// The workers' side of the router core: membership events and the sequences that live on them.
#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

// What only a broken worker sends: clients would get tokens that do not exist, and no other worker
// could go on from them.
Status CheckStep(const StepReport& step, int32_t vocab_size) {
  const auto check = [&](const std::vector<int32_t>& ids, SequenceId sequence) -> Status {
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocab_size) continue;
      return InvalidArgument("sent token id {} for sequence {}, but ids are in [0, {}]", id,
                             sequence.value(), vocab_size - 1);
    }
    return absl::OkStatus();
  };
  for (const SequenceUpdate& update : step.updates) {
    CHOIR_RETURN_IF_ERROR(check(update.token_ids, update.id));
    for (const StepLogprob& logprob : update.logprobs) {
      CHOIR_RETURN_IF_ERROR(check(logprob.top_ids, update.id));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<Placement> RouterCore::Place(const PlaceQuery& query) {
  const MonoTime began = parts_.clock->Now();
  auto pick = policy_->Choose(membership_.ranks(), query);
  parts_.metrics->decision_seconds.Observe(Seconds(parts_.clock->Now() - began));
  if (!pick) return std::nullopt;
  policy_->OnPlaced(query, *pick, *membership_.Find(pick->placement.worker));
  membership_.Assign(pick->placement.worker, pick->placement.counted_tokens);
  parts_.metrics->OnRouted(RouteReasonName(pick->reason));
  return std::move(pick->placement);
}

WorkerIndex RouterCore::AddWorker(const std::string& address) { return membership_.Add(address); }

void RouterCore::RemoveWorker(WorkerIndex worker) {
  if (membership_.Find(worker) == nullptr) return;
  // First out of sight, then its sequences: they must not be placed on it again.
  membership_.OnStreamLost(worker, "no longer configured");
  membership_.Remove(worker);
  progress_.erase(worker);
  LoseSequences(worker, LossCause::kWorkerLost);
}

void RouterCore::OnWorkerConnecting(WorkerIndex worker, uint64_t connection) {
  if (membership_.Find(worker) != nullptr) membership_.OnConnecting(worker, connection);
}

Status RouterCore::OnWorkerHello(WorkerIndex worker, const WorkerIdentity& identity) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr) return Cancelled("no longer configured");
  const bool known_refusal = view->phase == WorkerPhase::kRefused;
  const Status status = membership_.OnHello(worker, identity);
  if (!status.ok()) {
    if (!known_refusal) CHOIR_LOG(error, "refused: {}", MessageOf(status));
    return status;
  }
  CHOIR_LOG(info, "worker {} at {} connected: model '{}', numerics {}, context {}",
            identity.worker_id, view->address, identity.model_id, identity.numerics_id,
            identity.context_length);
  progress_[worker].heard = parts_.clock->Now();
  return status;
}

void RouterCore::OnWorkerState(WorkerIndex worker, const WorkerStateReport& state) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr) return;
  progress_[worker].heard = parts_.clock->Now();
  const WorkerPhase before = view->phase;
  const uint64_t old_epoch = view->epoch;
  const bool new_epoch = membership_.OnState(worker, state);
  const WorkerPhase after = view->phase;
  if (before != after || new_epoch) {
    CHOIR_LOG(info, "worker {}: {} in epoch {}{}{}", view->identity->worker_id,
              WorkerPhaseName(after), view->epoch, view->reason.empty() ? "" : ": ", view->reason);
  }
  if (new_epoch) {
    // First all out of sight, then their sequences: they must not be placed there again.
    const std::vector<WorkerIndex> others = membership_.OnGroupEpochEnded(worker, old_epoch);
    LoseSequences(worker, LossCause::kEpochEnded);
    for (const WorkerIndex other : others) LoseSequences(other, LossCause::kEpochEnded);
  }
  if (after == WorkerPhase::kReady && (before != after || new_epoch)) RetryWaiting();
  TakeTurns();
}

void RouterCore::OnWorkerStep(WorkerIndex worker, const StepReport& step) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr || view->phase == WorkerPhase::kRefused) return;
  if (const Status good = CheckStep(step, parts_.model->vocab_size()); !good.ok()) {
    CHOIR_LOG(error, "worker {} at {} is cut off: it {}", view->identity->worker_id, view->address,
              MessageOf(good));
    parts_.links->Disconnect(worker, MessageOf(good));
    return;
  }
  const MonoTime now = parts_.clock->Now();
  NoteProgress(worker, step, now);
  if (step.load) membership_.OnLoad(worker, *step.load);
  if (step.epoch != 0 && membership_.OnEpoch(worker, step.epoch)) {
    LoseSequences(worker, LossCause::kEpochEnded);
  }
  for (const SequenceUpdate& update : step.updates) {
    const auto it = sequences_.find(update.id.value());
    if (it == sequences_.end() || it->second.worker != worker) {
      // A ghost: it runs there, but nobody here waits for it.
      if (update.end == SequenceEnd::kNone) parts_.links->Cancel(worker, update.id);
      continue;
    }
    LiveSequence sequence = it->second;
    const auto owner = requests_.find(sequence.request);
    const bool wanted = !sequence.cancelling && owner != requests_.end();
    if (wanted) Observe(*owner->second, update, it->second);
    if (update.end != SequenceEnd::kNone) {
      const bool cancelled = sequence.cancelling || update.end == SequenceEnd::kCancelled;
      const bool lost = update.end == SequenceEnd::kLost || update.end == SequenceEnd::kRefused;
      TraceSequence(sequence.span.get(),
                    cancelled ? "cancelled"
                    : lost    ? "lost"
                              : "ended",
                    cancelled || !lost ? "" : "the worker gave it back");
      membership_.Release(worker, it->second.unanswered_tokens);
      ++(sequence.cancelling || update.end == SequenceEnd::kCancelled ? sequence_ledger_.cancelled
         : update.end == SequenceEnd::kLost                           ? sequence_ledger_.lost
                                                                      : sequence_ledger_.ended);
      sequences_.erase(it);
    }
    if (!wanted) continue;
    if (update.end == SequenceEnd::kRefused) {
      LogFields(spdlog::level::warn,
                fmt::format("worker {} refused it: {}", view->identity->worker_id, update.error),
                {{"request_id", owner->second->request_id},
                 {"trace_id", TraceIdOf(owner->second->input.trace_parent)}});
      parts_.metrics->OnRetry("refused");
    }
    if (update.end == SequenceEnd::kLost) {
      parts_.metrics->OnRetry("epoch_ended");
      membership_.OnFailure(worker, now);  // before its place is looked for anew
    }
    Relay::Actions actions;
    owner->second->relay->OnUpdate(update, now, &actions);
    Act(*owner->second, std::move(actions));
  }
  if (membership_.TakeReopened()) RetryWaiting();
  TakeTurns();
}

void RouterCore::Observe(Request& request, const SequenceUpdate& update, LiveSequence& sequence) {
  if (update.token_ids.empty()) return;
  const MonoTime now = parts_.clock->Now();
  if (!request.first_token_seen) {
    request.first_token_seen = true;
    request.first_token = parts_.clock->Now();
    parts_.metrics->ttft_seconds.Observe(Seconds(now - request.arrived));
  } else if (sequence.answered) {
    parts_.metrics->itl_seconds.Observe(Seconds(now - sequence.last_token) /
                                        static_cast<double>(update.token_ids.size()));
  }
  if (!std::exchange(sequence.answered, true)) {
    const WorkerView* worker = membership_.Find(sequence.worker);
    if (worker != nullptr && request.relay->has_prefix()) {
      policy_->OnFirstToken(*worker, sequence.predicted_tokens, update.cached_tokens);
    }
    membership_.FirstToken(sequence.worker, sequence.unanswered_tokens);
    sequence.unanswered_tokens = 0;
  }
  sequence.last_token = now;
}

void RouterCore::OnWorkerLost(WorkerIndex worker, const std::string& reason) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr) return;
  const WorkerPhase before = view->phase;
  const bool news = before != WorkerPhase::kLost && before != WorkerPhase::kConnecting &&
                    before != WorkerPhase::kRefused;
  if (news) {
    CHOIR_LOG(warn, "worker {} at {} lost: {}", view->identity->worker_id, view->address, reason);
  }
  membership_.OnStreamLost(worker, reason);
  progress_.erase(worker);
  LoseSequences(worker, LossCause::kWorkerLost);
}

void RouterCore::LoseSequences(WorkerIndex worker, LossCause cause) {
  const MonoTime now = parts_.clock->Now();
  std::vector<uint64_t> lost;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence.worker == worker) lost.push_back(id);
  }
  if (!lost.empty()) membership_.OnFailure(worker, now);
  for (const uint64_t id : lost) {
    const auto it = sequences_.find(id);
    if (it == sequences_.end()) continue;
    const LiveSequence sequence = it->second;
    sequences_.erase(it);
    TraceSequence(sequence.span.get(), sequence.cancelling ? "cancelled" : "lost",
                  sequence.cancelling ? "" : LossCauseName(cause));
    ++sequence_ledger_.lost;
    if (cause == LossCause::kEpochEnded) {
      membership_.Release(worker, sequence.unanswered_tokens);
      // It may have reached the worker after the epoch changed there, and be running in the new
      // one.
      parts_.links->Cancel(worker, SequenceId(id));
    }
    const auto owner = requests_.find(sequence.request);
    if (sequence.cancelling || owner == requests_.end()) continue;
    Request& request = *owner->second;
    parts_.metrics->OnRetry(LossCauseName(cause));
    if (!std::exchange(request.counted_as_resumed, true)) {
      parts_.metrics->resumed_streams.Increment();
    }
    LogFields(
        spdlog::level::info, fmt::format("{}, replaying", LossCauseName(cause)),
        {{"request_id", request.request_id}, {"trace_id", TraceIdOf(request.input.trace_parent)}});
    Relay::Actions actions;
    request.relay->OnLost(SequenceId(id), cause, now, &actions);
    Act(request, std::move(actions));
  }
}

void RouterCore::RetryWaiting() {
  const MonoTime now = parts_.clock->Now();
  const std::vector<uint64_t> ids(waiting_.begin(), waiting_.end());
  for (const uint64_t id : ids) {
    const auto it = requests_.find(id);
    if (it == requests_.end() || it->second->stage != RequestStage::kRunning) continue;
    Relay::Actions actions;
    it->second->relay->OnPlaceable(now, &actions);
    Act(*it->second, std::move(actions));
  }
}

bool RouterCore::MayRetry(MonoTime now) {
  if (retry_budget_.TryRetry(now)) return true;
  parts_.metrics->retry_budget_exhausted.Increment();
  return false;
}

void RouterCore::NoteProgress(WorkerIndex worker, const StepReport& step, MonoTime now) {
  Progress& progress = progress_[worker];
  progress.heard = now;
  const bool computed =
      step.load && std::exchange(progress.computed_tokens, step.load->computed_tokens) !=
                       step.load->computed_tokens;
  const bool served =
      std::any_of(step.updates.begin(), step.updates.end(), [&](const SequenceUpdate& update) {
        const auto it = sequences_.find(update.id.value());
        return it != sequences_.end() && it->second.worker == worker;
      });
  if (computed || served) progress.made = now;
}

void RouterCore::CutStalledWorkers(MonoTime now) {
  if (now < next_stall_check_) return;
  next_stall_check_ =
      now + std::min<Duration>(std::chrono::seconds(1), settings_.worker_stall_timeout / 4);
  std::map<WorkerIndex, MonoTime> busy_since;
  for (const auto& [id, sequence] : sequences_) {
    const auto [it, added] = busy_since.emplace(sequence.worker, sequence.since);
    if (!added) it->second = std::min(it->second, sequence.since);
  }
  for (const auto& [worker, since] : busy_since) {
    const Progress& progress = progress_[worker];
    const MonoTime last = std::max(since, progress.made);
    if (now - last < settings_.worker_stall_timeout) continue;
    const bool silent = now - progress.heard >= settings_.worker_stall_timeout;
    membership_.OnStall(worker, now);
    parts_.links->Disconnect(
        worker, fmt::format("has work, but {} for {:.0f} s",
                            silent ? "sent nothing" : "got nowhere with it, though it sends",
                            Seconds(now - last)));
  }
}

void RouterCore::Reconcile(MonoTime now) {
  if (now < next_reconcile_) return;
  next_reconcile_ = now + settings_.reconcile_interval;
  std::map<WorkerIndex, std::vector<SequenceId>> running;
  for (const WorkerView& worker : membership_.snapshot().workers) {
    if (worker.epoch != 0) running[worker.index];
  }
  for (const auto& [id, sequence] : sequences_) {
    const auto it = running.find(sequence.worker);
    if (it != running.end()) it->second.emplace_back(id);
  }
  for (const auto& [worker, ids] : running) parts_.links->Reconcile(worker, ids);
}

void RouterCore::OnWorkerGhosts(WorkerIndex worker, uint32_t sequences) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr || sequences == 0) return;
  parts_.metrics->ghost_sequences.Increment(sequences);
  CHOIR_LOG(warn, "worker {} cancelled {} sequences that this router does not know",
            view->identity->worker_id, sequences);
}

}  // namespace choir
