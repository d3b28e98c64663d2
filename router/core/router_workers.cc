// The workers' side of the router core: membership events and the sequences that live on them.
#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "router/core/router_core.h"

namespace choir {

std::optional<Placement> RouterCore::Place(const PlaceQuery& query) {
  const MonoTime began = parts_.clock->Now();
  auto pick = PickWorker(*membership_.snapshot(), query);
  parts_.metrics->decision_seconds.Observe(Seconds(parts_.clock->Now() - began));
  if (!pick) return std::nullopt;
  membership_.Assign(pick->placement.worker, query.num_tokens);
  parts_.metrics->OnRouted(RouteReasonName(pick->reason));
  return std::move(pick->placement);
}

WorkerIndex RouterCore::AddWorker(const std::string& address) { return membership_.Add(address); }

void RouterCore::RemoveWorker(WorkerIndex worker) {
  if (membership_.Find(worker) == nullptr) return;
  // First out of sight, then its sequences: they must not be placed on it again.
  membership_.OnStreamLost(worker, "no longer configured");
  membership_.Remove(worker);
  last_heard_.erase(worker);
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
  last_heard_[worker] = parts_.clock->Now();
  return status;
}

void RouterCore::OnWorkerState(WorkerIndex worker, const WorkerStateReport& state) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr) return;
  last_heard_[worker] = parts_.clock->Now();
  const WorkerPhase before = view->phase;
  const bool new_epoch = membership_.OnState(worker, state);
  const WorkerPhase after = view->phase;
  if (before != after || new_epoch) {
    CHOIR_LOG(info, "worker {}: {} in epoch {}{}{}", view->identity->worker_id,
              WorkerPhaseName(after), view->epoch, view->reason.empty() ? "" : ": ", view->reason);
  }
  if (new_epoch) LoseSequences(worker, LossCause::kEpochEnded);
  if (after == WorkerPhase::kReady && (before != after || new_epoch)) RetryWaiting();
}

void RouterCore::OnWorkerStep(WorkerIndex worker, const StepReport& step) {
  const WorkerView* view = membership_.Find(worker);
  if (view == nullptr || view->phase == WorkerPhase::kRefused) return;
  const MonoTime now = parts_.clock->Now();
  last_heard_[worker] = now;
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
      membership_.Release(worker, it->second.unanswered_tokens);
      ++(sequence.cancelling || update.end == SequenceEnd::kCancelled ? sequence_ledger_.cancelled
         : update.end == SequenceEnd::kLost                           ? sequence_ledger_.lost
                                                                      : sequence_ledger_.ended);
      sequences_.erase(it);
    }
    if (!wanted) continue;
    if (update.end == SequenceEnd::kRefused) {
      CHOIR_LOG(warn, "worker {} refused request {}: {}", view->identity->worker_id,
                owner->second->request_id, update.error);
      parts_.metrics->OnRetry("refused");
    }
    if (update.end == SequenceEnd::kLost) parts_.metrics->OnRetry("epoch_ended");
    Relay::Actions actions;
    owner->second->relay->OnUpdate(update, now, &actions);
    Act(*owner->second, std::move(actions));
  }
}

void RouterCore::Observe(Request& request, const SequenceUpdate& update, LiveSequence& sequence) {
  if (update.token_ids.empty()) return;
  const MonoTime now = parts_.clock->Now();
  if (!request.first_token_seen) {
    request.first_token_seen = true;
    parts_.metrics->ttft_seconds.Observe(Seconds(now - request.arrived));
  } else if (sequence.unanswered_tokens == 0) {
    parts_.metrics->itl_seconds.Observe(Seconds(now - sequence.last_token) /
                                        static_cast<double>(update.token_ids.size()));
  }
  if (sequence.unanswered_tokens != 0) {
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
  last_heard_.erase(worker);
  LoseSequences(worker, LossCause::kWorkerLost);
}

void RouterCore::LoseSequences(WorkerIndex worker, LossCause cause) {
  const MonoTime now = parts_.clock->Now();
  std::vector<uint64_t> lost;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence.worker == worker) lost.push_back(id);
  }
  for (const uint64_t id : lost) {
    const auto it = sequences_.find(id);
    if (it == sequences_.end()) continue;
    const LiveSequence sequence = it->second;
    sequences_.erase(it);
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
    CHOIR_LOG(info, "request {}: {}, replaying", request.request_id, LossCauseName(cause));
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

void RouterCore::CutStalledWorkers(MonoTime now) {
  if (now < next_stall_check_) return;
  next_stall_check_ = now + std::chrono::seconds(1);
  std::map<WorkerIndex, MonoTime> busy_since;
  for (const auto& [id, sequence] : sequences_) {
    const auto [it, added] = busy_since.emplace(sequence.worker, sequence.since);
    if (!added) it->second = std::min(it->second, sequence.since);
  }
  for (const auto& [worker, since] : busy_since) {
    const auto heard = last_heard_.find(worker);
    const MonoTime last = heard == last_heard_.end() ? since : std::max(since, heard->second);
    if (now - last < settings_.worker_stall_timeout) continue;
    last_heard_[worker] = now;
    parts_.links->Disconnect(
        worker, fmt::format("has work, but sent nothing for {:.0f} s", Seconds(now - last)));
  }
}

}  // namespace choir
