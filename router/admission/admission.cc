// What happens to a request; which one is next is in admission_choice.cc.
#include "router/admission/admission.h"

#include <algorithm>

#include "common/base/check.h"

namespace choir {

Permit::Permit(Admission* admission, const AdmitRequest& request, double weight, MonoTime now)
    : admission_(admission), asked_(request), weight_(weight), entered_(now) {
  place_.permit = this;
}

Permit::~Permit() {
  if (stage_ != Stage::kEnded) admission_->End(*this, {}, admission_->last_now_);
}

void Permit::End(const UsedWork& used, MonoTime now) { admission_->End(*this, used, now); }

void Permit::Placed() {
  CHOIR_CHECK(stage_ == Stage::kMayRun);
  stage_ = Stage::kRunning;
  admission_->unplaced_sequences_ -= work_.choices;
  admission_->unplaced_tokens_ -= work_.prompt;
}

Admission::Admission(AdmissionConfig config, uint64_t requests_max)
    : config_(std::move(config)), requests_max_(requests_max) {}

Admission::~Admission() { CHOIR_CHECK(held_ == 0); }

void Admission::SetConfig(AdmissionConfig config) { config_ = std::move(config); }

AdmissionClass Admission::ClassOf(const std::string& tenant) const {
  const auto it = config_.tenants.find(tenant);
  return it == config_.tenants.end() ? TenantStanding{}.admission_class
                                     : it->second.admission_class;
}

std::variant<std::unique_ptr<Permit>, ApiError> Admission::Enter(const AdmitRequest& request,
                                                                 MonoTime now) {
  last_now_ = now;
  if (auto error = CheckRoom(request, now)) return *std::move(error);
  ClassState& state = At(request.admission_class);
  std::unique_ptr<Permit> permit(new Permit(this, request, WeightOf(request.tenant), now));
  ++state.entered;
  ++held_;
  ++entered_;
  if (auto error = CheckDeadline(request, now)) return *std::move(error);
  return permit;
}

std::optional<ApiError> Admission::Wait(Permit& permit, const RequestWork& work, MonoTime now) {
  CHOIR_CHECK(permit.stage_ == Permit::Stage::kEntered && work.choices >= 1);
  last_now_ = now;
  permit.work_ = work;
  permit.asked_.max_tokens = work.output_max / work.choices;
  ClassState& state = At(permit.admission_class());
  if (permit.asked_.resumed) {
    --state.entered;
    state.queue.Start(&permit.place_, permit.asked_.tenant, permit.weight_, work.tokens());
    StartRunning(permit, now);
    return std::nullopt;
  }
  if (auto error = CheckDeadline(permit.asked_, now)) return error;
  --state.entered;
  permit.stage_ = Permit::Stage::kWaiting;
  state.queue.Add(&permit.place_, permit.asked_.tenant, permit.weight_, work.tokens());
  if (state.queue.size() > 1) state.shares[permit.asked_.tenant].SetWaiting(true, now);
  permit.expires_ = permit.entered_ + config_.of(permit.admission_class()).queue_timeout;
  expiries_.emplace(std::pair(permit.expires_, permit.asked_.number), &permit);
  if (state.queue.size() <= config_.of(permit.admission_class()).queue) return std::nullopt;
  const std::optional<Choice> next = Choose(now);
  if (next && next->admission_class == permit.admission_class()) return std::nullopt;
  StopWaiting(permit, now);
  return QueueFull(permit.admission_class(), now);
}

std::optional<uint64_t> Admission::Next(MonoTime now) {
  last_now_ = now;
  const std::optional<Choice> choice = Choose(now);
  NotePassedOver(choice ? std::optional(choice->admission_class) : std::nullopt, now);
  if (!choice) {
    for (ClassState& state : classes_) state.drain.SetWaiting(state.queue.size() > 0, now);
    return std::nullopt;
  }
  ClassState& state = At(choice->admission_class);
  Permit& permit = *static_cast<Permit::Place*>(state.queue.front())->permit;
  permit.aged_ = choice->aged;
  state.drain.OnStart(permit.work_.tokens(), now);
  if (const auto share = state.shares.find(permit.asked_.tenant); share != state.shares.end()) {
    share->second.OnStart(permit.work_.tokens(), now);
  }
  state.queue.Pop();
  LeaveShare(permit);
  expiries_.erase({permit.expires_, permit.asked_.number});
  state.passed_over_since.reset();
  state.aged += choice->aged ? 1 : 0;
  StartRunning(permit, now);
  return permit.asked_.number;
}

void Admission::StartRunning(Permit& permit, MonoTime now) {
  permit.stage_ = Permit::Stage::kMayRun;
  permit.started_ = now;
  ClassState& state = At(permit.admission_class());
  ++state.running;
  ++state.started;
  state.running_sequences += permit.work_.choices;
  sequences_ += permit.work_.choices;
  unplaced_sequences_ += permit.work_.choices;
  unplaced_tokens_ += permit.work_.prompt;
  charged_ += permit.work_.tokens();
}

// A tenant's share is known while it waits.
void Admission::LeaveShare(const Permit& permit) {
  ClassState& state = At(permit.admission_class());
  if (state.queue.WaitingWork(permit.asked_.tenant) == 0) state.shares.erase(permit.asked_.tenant);
}

// It gives up its place in the queue.
void Admission::StopWaiting(Permit& permit, MonoTime now) {
  ClassState& state = At(permit.admission_class());
  expiries_.erase({permit.expires_, permit.asked_.number});
  state.queue.Remove(&permit.place_);
  LeaveShare(permit);
  if (state.queue.size() == 0) {
    state.drain.SetWaiting(false, now);
    state.passed_over_since.reset();
  }
  ++state.entered;  // until its end
  permit.stage_ = Permit::Stage::kEntered;
}

void Admission::End(Permit& permit, const UsedWork& used, MonoTime now) {
  CHOIR_CHECK(permit.stage_ != Permit::Stage::kEnded);
  last_now_ = now;
  ClassState& state = At(permit.admission_class());
  if (permit.stage_ == Permit::Stage::kWaiting) StopWaiting(permit, now);
  if (permit.stage_ == Permit::Stage::kEntered) {
    --state.entered;
  } else {
    if (permit.stage_ == Permit::Stage::kMayRun) permit.Placed();
    settled_ += permit.work_.tokens();
    state.queue.Settle(&permit.place_, used.tokens);
    --state.running;
    state.running_sequences -= permit.work_.choices;
    sequences_ -= permit.work_.choices;
    if (used.ended_well) {
      state.run_times.OnEnd(Seconds(now - permit.started_), used.output_tokens);
    }
  }
  permit.stage_ = Permit::Stage::kEnded;
  --held_;
  ++ended_;
}

std::vector<std::pair<uint64_t, ApiError>> Admission::TakeExpired(MonoTime now) {
  last_now_ = now;
  std::vector<std::pair<uint64_t, ApiError>> expired;
  while (!expiries_.empty() && expiries_.begin()->first.first <= now) {
    Permit& permit = *expiries_.begin()->second;
    const std::string name = AdmissionClassName(permit.admission_class());
    ApiError error = QueueFull(permit.admission_class(), now);
    error.message = fmt::format(
        "it waited {:.3g} s for its turn, as long as requests of class {} may "
        "(router.admission.{}.queue_timeout)",
        Seconds(now - permit.entered_), name, name);
    error.limit_rule = fmt::format("class:{}.queue_timeout", name);
    StopWaiting(permit, now);
    expired.emplace_back(permit.asked_.number, std::move(error));
  }
  return expired;
}

AdmissionStatus Admission::status(MonoTime now) const {
  AdmissionStatus status{.capacity = capacity_,
                         .held = held_,
                         .held_max = requests_max_,
                         .entered = entered_,
                         .ended = ended_,
                         .charged_tokens = charged_,
                         .settled_tokens = settled_};
  for (const AdmissionClass c : kAdmissionClasses) {
    const ClassState& state = At(c);
    status.there += state.entered + state.queue.size() + state.running;
    status.outstanding_tokens += state.queue.started_work();
    AdmissionStatus::Class& out = status.classes[static_cast<size_t>(c)];
    out = {.entered = state.entered,
           .waiting = state.queue.size(),
           .waiting_tenants = state.queue.waiting_tenants(),
           .waiting_tokens = state.queue.waiting_work(),
           .running = state.running,
           .running_sequences = state.running_sequences,
           .queue = config_.of(c).queue,
           .floor = config_.of(c).floor.Of(Places()),
           .started = state.started,
           .aged = state.aged};
    const Amount& ceiling = config_.of(c).ceiling;
    if (capacity_.bounded || !ceiling.is_share) out.ceiling = ceiling.Of(Places());
    if (state.queue.size() > 0) out.wait_seconds = state.drain.SecondsFor(0, now);
  }
  return status;
}

}  // namespace choir
