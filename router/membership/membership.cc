#include "router/membership/membership.h"

#include <algorithm>

#include "common/base/check.h"
#include "common/base/version.h"

namespace choir {
namespace {

constexpr size_t kNameMax = 256;
constexpr size_t kChangedMax = 64;  // before they are counted though nobody asked

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

uint64_t LoadOf(const WorkerView& worker) {
  const WorkerLoad& reported = worker.reported;
  const uint64_t sequences =
      std::max<uint64_t>(worker.assigned_sequences, uint64_t{reported.running} + reported.waiting);
  const uint64_t tokens = std::max(worker.assigned_tokens, reported.waiting_tokens);
  return sequences * kDecodeWeight + tokens;
}

WorkerIndex Membership::Add(const std::string& address) {
  const auto [known, added] = by_address_.try_emplace(address, WorkerIndex(next_index_));
  if (!added) return known->second;
  const WorkerIndex index(next_index_++);
  WorkerView& worker = members_[index].view;
  worker.index = index;
  worker.address = address;
  worker.reason = "not connected yet";
  WorkerIdentity unknown;
  unknown.worker_id = address;
  worker.identity = std::make_shared<const WorkerIdentity>(std::move(unknown));
  return index;
}

void Membership::Remove(WorkerIndex worker) {
  const auto it = members_.find(worker);
  if (it == members_.end()) return;
  Uncount(it->second);
  ranks_.Remove(worker);
  breakers_.erase(worker);
  open_breakers_.erase(worker);
  num_ready_ -= it->second.counted_ready ? 1 : 0;
  capacity_ -= it->second.counted_capacity;
  by_address_.erase(it->second.view.address);
  members_.erase(it);
  ForgetModelWhenUnused();
}

WorkerView& Membership::At(WorkerIndex worker) {
  const auto it = members_.find(worker);
  CHOIR_CHECK(it != members_.end());
  if (changed_.size() >= kChangedMax) CountAnew();
  if (changed_.empty() || changed_.back() != worker) changed_.push_back(worker);
  return it->second.view;
}

void Membership::CountAnew() const {
  for (const WorkerIndex index : changed_) {
    const auto it = members_.find(index);
    if (it == members_.end()) continue;  // removed since
    Member& member = it->second;
    const bool accepted = IsAccepted(member.view.phase);
    if (member.counted != (accepted ? member.view.identity : nullptr)) {
      Uncount(member);
      if (accepted) Count(member);
    }
    const bool ready = member.view.phase == WorkerPhase::kReady;
    if (ready != std::exchange(member.counted_ready, ready)) ready ? ++num_ready_ : --num_ready_;
    ranks_.Update(member.view);
    capacity_ -= member.counted_capacity;
    member.counted_capacity = member.view.Serves() ? CapacityOf(member.view) : RankCapacity{};
    capacity_ += member.counted_capacity;
  }
  changed_.clear();
}

void Membership::Count(Member& member) const {
  member.counted = member.view.identity;
  const WorkerIdentity& identity = *member.counted;
  accepted_[identity.worker_id] = member.view.index;
  groups_[{identity.group, identity.group_size}].insert(member.view.index);
  if (identity.context_length != 0) ++contexts_[identity.context_length];
}

void Membership::Uncount(Member& member) const {
  if (member.counted == nullptr) return;
  const WorkerIdentity& identity = *member.counted;
  accepted_.erase(identity.worker_id);
  const auto group = groups_.find({identity.group, identity.group_size});
  group->second.erase(member.view.index);
  if (group->second.empty()) groups_.erase(group);
  const auto context = contexts_.find(identity.context_length);
  if (context != contexts_.end() && --context->second == 0) contexts_.erase(context);
  member.counted = nullptr;
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
  if (identity.worker_id.empty() || identity.worker_id.size() > kNameMax ||
      identity.model_id.size() > kNameMax || identity.numerics_id.size() > kNameMax) {
    return InvalidArgument(
        "the worker at {} sent a hello without a name, or with one longer than {}: is it a "
        "choir-worker?",
        worker.address, kNameMax);
  }
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
  const auto same_name = accepted_.find(identity.worker_id);
  if (same_name != accepted_.end() && same_name->second != worker.index) {
    return FailedPrecondition(
        "{} has the name of the worker at {}: give each its own group and rank", name,
        Find(same_name->second)->address);
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
  worker.phase = WorkerPhase::kConnecting;  // whatever it was: this is another worker now
  CountAnew();
  At(index);
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

std::vector<WorkerIndex> Membership::OnGroupEpochEnded(WorkerIndex index, uint64_t epoch) {
  const std::shared_ptr<const WorkerIdentity> who = Find(index)->identity;
  std::vector<WorkerIndex> others;
  if (who->group_size < 2) return others;
  CountAnew();
  const auto group = groups_.find({who->group, who->group_size});
  if (group == groups_.end()) return others;
  for (const WorkerIndex other : group->second) {
    const WorkerView& now = *Find(other);
    const bool affected = other != index && now.epoch == epoch &&
                          (now.phase == WorkerPhase::kReady || now.phase == WorkerPhase::kDraining);
    if (affected) others.push_back(other);
  }
  for (const WorkerIndex other : others) {
    WorkerView& worker = At(other);
    worker.epoch = 0;
    if (worker.phase != WorkerPhase::kReady) continue;
    worker.phase = WorkerPhase::kNotReady;
    worker.reason = fmt::format("epoch {} of its group is over, says {}", epoch, who->worker_id);
  }
  return others;
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
  TellBreaker(index, [](CircuitBreaker& breaker) { breaker.OnGone(); });
  ForgetModelWhenUnused();
}

void Membership::Assign(WorkerIndex index, uint64_t tokens) {
  WorkerView& worker = At(index);
  ++worker.assigned_sequences;
  worker.assigned_tokens += tokens;
  TellBreaker(index, [](CircuitBreaker& breaker) { breaker.OnPlaced(); });
}

void Membership::FirstToken(WorkerIndex index, uint64_t tokens) {
  if (Find(index) == nullptr) return;
  WorkerView& worker = At(index);
  worker.assigned_tokens -= std::min(worker.assigned_tokens, tokens);
  TellBreaker(index, [](CircuitBreaker& breaker) { breaker.OnFirstToken(); });
}

void Membership::Release(WorkerIndex index, uint64_t unanswered_tokens) {
  const WorkerView* known = Find(index);
  if (known == nullptr || known->assigned_sequences == 0) return;  // reset by a loss
  WorkerView& worker = At(index);
  --worker.assigned_sequences;
  worker.assigned_tokens -= std::min(worker.assigned_tokens, unanswered_tokens);
  TellBreaker(index, [](CircuitBreaker& breaker) { breaker.OnGone(); });
}

template <typename Tell>
void Membership::TellBreaker(WorkerIndex index, Tell tell) {
  if (Find(index) == nullptr) return;
  CircuitBreaker& breaker = breakers_.try_emplace(index, breaker_limits_).first->second;
  tell(breaker);
  if (breaker.state() == BreakerState::kOpen) {
    open_breakers_.insert(index);
  } else {
    open_breakers_.erase(index);
  }
  WorkerView& worker = At(index);
  worker.breaker = breaker.state();
  const bool took_work = std::exchange(worker.takes_work, breaker.TakesWork());
  reopened_ |= worker.takes_work && !took_work;
}

void Membership::OnFailure(WorkerIndex index, MonoTime now) {
  TellBreaker(index, [now](CircuitBreaker& breaker) { breaker.OnFailure(now); });
}

void Membership::OnStall(WorkerIndex index, MonoTime now) {
  TellBreaker(index, [now](CircuitBreaker& breaker) { breaker.Open(now); });
}

void Membership::OnTime(MonoTime now) {
  for (const WorkerIndex index : std::set(open_breakers_)) {
    TellBreaker(index, [&](CircuitBreaker& due) { due.OnTime(now); });
  }
}

MonoTime Membership::NextTimer() const {
  MonoTime next = MonoTime::max();
  for (const WorkerIndex index : open_breakers_) {
    next = std::min(next, breakers_.at(index).NextTimer());
  }
  return next;
}

size_t Membership::num_ready() const {
  CountAnew();
  return num_ready_;
}

const RankCapacity& Membership::capacity() const {
  CountAnew();
  return capacity_;
}

const RankTable& Membership::ranks() const {
  CountAnew();
  return ranks_;
}

Snapshot Membership::snapshot() const {
  Snapshot snapshot;
  snapshot.workers.reserve(members_.size());
  for (const auto& [index, member] : members_) snapshot.workers.push_back(member.view);
  return snapshot;
}

const WorkerView* Membership::Find(WorkerIndex worker) const {
  const auto it = members_.find(worker);
  return it == members_.end() ? nullptr : &it->second.view;
}

uint32_t Membership::context_length() const {
  CountAnew();
  return contexts_.empty() ? 0 : contexts_.begin()->first;
}

void Membership::ForgetModelWhenUnused() {
  CountAnew();
  if (accepted_.empty()) model_.reset();
}

}  // namespace choir
