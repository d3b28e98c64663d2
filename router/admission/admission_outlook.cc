// What becomes of a request that comes now: whether there is room for it, when it would have its
// turn, and why it is refused.
#include <algorithm>

#include "router/admission/admission.h"

namespace choir {

double Admission::WeightOf(const std::string& tenant) const {
  const auto standing = config_.tenants.find(tenant);
  return standing == config_.tenants.end() ? 1 : standing->second.weight;
}

std::optional<ApiError> Admission::CheckRoom(const AdmitRequest& request, MonoTime now) const {
  if (!AnyPermitLeft(request)) {
    return Overloaded(
        "queue_full",
        fmt::format("{} requests are running or queued already (router.max_requests)", held_), 1);
  }
  const AdmissionClass c = request.admission_class;
  const uint64_t queued = At(c).entered + At(c).queue.size(), most = config_.of(c).queue;
  if (request.resumed || queued < most || queued - most < RoomOf(c)) return std::nullopt;
  return QueueFull(c, now);
}

// Until a request of this tenant would start: behind what is before it in the queue at the class's
// rate, and behind the tenant's own at the rate that the tenant has, as others may come yet whose
// share is before it.
std::optional<double> Admission::WaitOf(const AdmitRequest& request, MonoTime now) const {
  const ClassState& state = At(request.admission_class);
  const double before = state.queue.WorkBefore(request.tenant, WeightOf(request.tenant));
  std::optional<double> wait = state.drain.SecondsFor(before, now);
  const auto share = state.shares.find(request.tenant);
  if (!wait || share == state.shares.end()) return wait;
  const auto own = static_cast<double>(state.queue.WaitingWork(request.tenant));
  return std::max(*wait, share->second.SecondsFor(own, now).value_or(0));
}

// Of a request that has not said its work, what is before it counts.
std::optional<ApiError> Admission::CheckDeadline(const AdmitRequest& request, MonoTime now) const {
  if (request.resumed || request.deadline == MonoTime::max()) return std::nullopt;
  const ClassState& state = At(request.admission_class);
  if (state.queue.size() == 0 && RoomOf(request.admission_class) > 0) return std::nullopt;
  const std::optional<double> wait = WaitOf(request, now);
  if (!wait || *wait <= 0) return std::nullopt;
  const double run =
      state.run_times.SecondsFor(static_cast<double>(request.max_tokens)).value_or(0);
  const double left = Seconds(request.deadline - now);
  if (*wait + run <= left) return std::nullopt;
  const std::string name = AdmissionClassName(request.admission_class);
  // So much later, if the queue goes on as it does, the same request would be in time.
  const double later = run < left ? *wait + run - left : 0;
  ApiError error = Overloaded(
      "deadline",
      fmt::format(
          "it would not be done in time: this tenant's requests of class {} wait about {:.1f} s "
          "now and run about {:.1f} s, its deadline is in {:.1f} s",
          name, *wait, run, left),
      later);
  error.limit_rule = fmt::format("class:{}.deadline", name);
  return error;
}

ApiError Admission::QueueFull(AdmissionClass c, MonoTime now) const {
  const std::string name = AdmissionClassName(c);
  const ClassState& state = At(c);
  ApiError error =
      Overloaded("queue_full",
                 fmt::format("{} requests of class {} wait already (router.admission.{}.queue)",
                             state.queue.size(), name, name),
                 std::clamp(state.drain.SecondsFor(0, now).value_or(1), 0.001, 3600.0));
  error.limit_rule = fmt::format("class:{}.queue", name);
  return error;
}

// As Enter, Wait and Next, one after the other, with nothing between them.
AdmissionOutlook Admission::Foresee(const AdmitRequest& request, const RequestWork& work,
                                    MonoTime now) const {
  const AdmissionClass c = request.admission_class;
  const ClassState& state = At(c);
  const double weight = WeightOf(request.tenant);
  AdmitRequest known = request;
  known.max_tokens = work.output_max / work.choices;
  AdmissionOutlook outlook{.refusal = CheckRoom(request, now)};
  if (!outlook.refusal) outlook.refusal = CheckDeadline(request, now);
  if (!outlook.refusal) outlook.refusal = CheckDeadline(known, now);
  outlook.runs = !outlook.refusal && request.resumed;
  if (outlook.refusal || outlook.runs) return outlook;
  const uint64_t place = state.queue.CountBefore(request.tenant, weight) + 1;
  const Guest guest{c, work};
  const std::optional<Choice> next = Choose(now, place == 1 ? &guest : nullptr);
  const bool moves = next && next->admission_class == c;
  if (moves && place == 1) {
    outlook.runs = true;
  } else if (!moves && state.queue.size() >= config_.of(c).queue) {
    outlook.refusal = QueueFull(c, now);
  } else {
    outlook.place = place;
    outlook.wait_seconds = WaitOf(request, now);
  }
  return outlook;
}

}  // namespace choir
