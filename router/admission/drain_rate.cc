#include "router/admission/drain_rate.h"

#include <algorithm>
#include <cmath>

namespace choir {

DrainRate::Sums DrainRate::At(MonoTime now) const {
  Sums sums = sums_;
  if (!waiting_) return now - since_ > kForgetAfter ? Sums{} : sums;
  const double passed = std::max(0.0, Seconds(now - since_));
  const double left = std::exp(-passed / Seconds(kMemory));
  sums.seconds = sums.seconds * left + Seconds(kMemory) * (1 - left);
  sums.work *= left;
  sums.starts *= left;
  return sums;
}

void DrainRate::SetWaiting(bool waiting, MonoTime now) {
  if (waiting == waiting_) return;
  sums_ = At(now);
  since_ = now;
  waiting_ = waiting;
}

void DrainRate::OnStart(uint64_t work, MonoTime now) {
  if (!waiting_) return;
  sums_ = At(now);
  since_ = now;
  sums_.work += static_cast<double>(work);
  sums_.starts += 1;
  ++sums_.seen;
}

std::optional<double> DrainRate::SecondsFor(double work, MonoTime now) const {
  const Sums sums = At(now);
  if (sums.seen < kStartsMin || sums.seconds <= 0 || sums.work <= 0) return std::nullopt;
  return work * sums.seconds / sums.work + sums.seconds / sums.starts;
}

void RunTimes::OnEnd(double seconds, double tokens) {
  if (!(tokens >= 1)) return;
  constexpr double kKept = 15.0 / 16;
  ++seen_;
  weight_ = weight_ * kKept + 1;
  seconds_ = seconds_ * kKept + std::max(0.0, seconds);
  tokens_ = tokens_ * kKept + tokens;
}

std::optional<double> RunTimes::SecondsFor(double tokens_max) const {
  constexpr uint64_t kSeenMin = 4;
  if (seen_ < kSeenMin) return std::nullopt;
  return std::min(tokens_max, tokens_ / weight_) * seconds_ / tokens_;
}

}  // namespace choir
