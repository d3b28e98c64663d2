#include "router/membership/membership.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/version.h"

namespace choir {
namespace {

bool IsAccepted(WorkerPhase phase) {
  return phase == WorkerPhase::kReady || phase == WorkerPhase::kNotReady ||
         phase == WorkerPhase::kDraining;
}

}  // namespace

const char* WorkerPhaseName(WorkerPhase phase) {
  switch (phase) {
    case WorkerPhase::kConnecting:
      return "connecting";
    case WorkerPhase::kNotReady:
      return "not_ready";
    case WorkerPhase::kReady:
      return "ready";
    case WorkerPhase::kDraining:
      return "draining";
    case WorkerPhase::kLost:
      return "lost";
    case WorkerPhase::kRefused:
      return "refused";
  }
  return "?";
}

WorkerIndex Membership::Add(const std::string& address) {
  for (const auto& [index, worker] : workers_) {
    if (worker.address == address) return index;
  }
  const WorkerIndex index(next_index_++);
  WorkerView& worker = workers_[index];
  worker.index = index;
  worker.address = address;
  worker.reason = "not connected yet";
  WorkerIdentity unknown;
  unknown.worker_id = address;
  worker.identity = std::make_shared<const WorkerIdentity>(std::move(unknown));
  snapshot_.reset();
  return index;
}

void Membership::Remove(WorkerIndex worker) {
  workers_.erase(worker);
  ForgetModelWhenUnused();
  snapshot_.reset();
}

WorkerView& Membership::At(WorkerIndex worker) {
  const auto it = workers_.find(worker);
  CHOIR_CHECK(it != workers_.end());
  snapshot_.reset();
  return it->second;
}

void Membership::OnConnecting(WorkerIndex index, uint64_t connection) {
  WorkerView& worker = At(index);
  worker.connection = connection;
  worker.epoch = 0;
  worker.reported = {};
  worker.assigned_sequences = 0;
  worker.assigned_tokens = 0;
}

Status Membership::Check(const WorkerView& worker, const WorkerIdentity& identity) const {
  const std::string name = fmt::format("worker {} at {}", identity.worker_id, worker.address);
  if (identity.protocol_version != kProtocolVersion) {
    return FailedPrecondition(
        "{} (build {}) speaks protocol {}, this router {}: run the same release", name,
        identity.build, identity.protocol_version, kProtocolVersion);
  }
  if (identity.vocab_size != 0 && vocab_size_ > static_cast<int64_t>(identity.vocab_size)) {
    return FailedPrecondition(
        "{} holds model '{}' with a vocabulary of {}, but the router's tokenizer has {} ids: give "
        "both the same model directory",
        name, identity.model_id, identity.vocab_size, vocab_size_);
  }
  for (const auto& [index, other] : workers_) {
    if (index != worker.index && IsAccepted(other.phase) &&
        other.identity->worker_id == identity.worker_id) {
      return FailedPrecondition(
          "{} has the name of the worker at {}: give each its own group and rank", name,
          other.address);
    }
  }
  if (!model_) return absl::OkStatus();
  if (identity.model_id != model_->model_id) {
    return FailedPrecondition("{} holds model '{}', the others hold '{}'", name, identity.model_id,
                              model_->model_id);
  }
  if (identity.numerics_id != model_->numerics_id) {
    return FailedPrecondition(
        "{} computes with numerics id {}, the others with {}: same weights, dtype and kernel path "
        "are needed",
        name, identity.numerics_id, model_->numerics_id);
  }
  return absl::OkStatus();
}

Status Membership::OnHello(WorkerIndex index, const WorkerIdentity& identity) {
  WorkerView& worker = At(index);
  worker.identity = std::make_shared<const WorkerIdentity>(identity);
  if (Status status = Check(worker, identity); !status.ok()) {
    worker.phase = WorkerPhase::kRefused;
    worker.reason = MessageOf(status);
    ForgetModelWhenUnused();
    return status;
  }
  worker.phase = WorkerPhase::kNotReady;
  worker.reason = "has not said that it is ready";
  if (!model_) model_ = identity;
  return absl::OkStatus();
}

bool Membership::OnState(WorkerIndex index, const WorkerStateReport& state) {
  WorkerView& worker = At(index);
  if (!IsAccepted(worker.phase)) return false;
  // A group whose leader was restarted may count from one again: any other epoch is a new one.
  const bool new_epoch = worker.epoch != 0 && worker.epoch != state.epoch;
  worker.epoch = state.epoch;
  if (state.draining) {
    worker.phase = WorkerPhase::kDraining;
    worker.reason = state.reason.empty() ? "draining" : state.reason;
  } else if (state.ready) {
    worker.phase = WorkerPhase::kReady;
    worker.reason.clear();
  } else {
    worker.phase = WorkerPhase::kNotReady;
    worker.reason = state.reason.empty() ? "not ready" : state.reason;
  }
  return new_epoch;
}

bool Membership::OnEpoch(WorkerIndex index, uint64_t epoch) {
  WorkerView& worker = At(index);
  if (epoch <= worker.epoch) return false;  // a late step of the epoch before
  const bool had_one = worker.epoch != 0;
  worker.epoch = epoch;
  return had_one;
}

void Membership::OnLoad(WorkerIndex index, const WorkerLoad& load) { At(index).reported = load; }

void Membership::OnStreamLost(WorkerIndex index, const std::string& reason) {
  WorkerView& worker = At(index);
  // A refused worker keeps its reason: that is what the operator must see.
  if (worker.phase != WorkerPhase::kRefused) {
    worker.phase =
        worker.phase == WorkerPhase::kConnecting ? WorkerPhase::kConnecting : WorkerPhase::kLost;
    worker.reason = reason;
  }
  worker.epoch = 0;
  worker.reported = {};
  worker.assigned_sequences = 0;
  worker.assigned_tokens = 0;
  ForgetModelWhenUnused();
}

void Membership::Assign(WorkerIndex index, uint64_t tokens) {
  WorkerView& worker = At(index);
  ++worker.assigned_sequences;
  worker.assigned_tokens += tokens;
}

void Membership::FirstToken(WorkerIndex index, uint64_t tokens) {
  const auto it = workers_.find(index);
  if (it == workers_.end()) return;
  snapshot_.reset();
  it->second.assigned_tokens -= std::min(it->second.assigned_tokens, tokens);
}

void Membership::Release(WorkerIndex index, uint64_t unanswered_tokens) {
  const auto it = workers_.find(index);
  if (it == workers_.end() || it->second.assigned_sequences == 0) return;  // reset by a loss
  --it->second.assigned_sequences;
  FirstToken(index, unanswered_tokens);
  snapshot_.reset();
}

std::shared_ptr<const Snapshot> Membership::snapshot() const {
  if (!snapshot_) {
    auto snapshot = std::make_shared<Snapshot>();
    snapshot->version = version_;
    snapshot->workers.reserve(workers_.size());
    for (const auto& [index, worker] : workers_) snapshot->workers.push_back(worker);
    snapshot_ = std::move(snapshot);
  }
  return snapshot_;
}

const WorkerView* Membership::Find(WorkerIndex worker) const {
  const auto it = workers_.find(worker);
  return it == workers_.end() ? nullptr : &it->second;
}

uint32_t Membership::context_length() const {
  uint32_t least = 0;
  for (const auto& [index, worker] : workers_) {
    const uint32_t context = worker.identity->context_length;
    if (!IsAccepted(worker.phase) || context == 0) continue;
    least = least == 0 ? context : std::min(least, context);
  }
  return least;
}

void Membership::ForgetModelWhenUnused() {
  const bool used = std::any_of(workers_.begin(), workers_.end(),
                                [](const auto& entry) { return IsAccepted(entry.second.phase); });
  if (!used) model_.reset();
}

}  // namespace choir
