#include "router/relay/retry_budget.h"

namespace choir {

RetryBudget::Slot& RetryBudget::At(MonoTime now) {
  const int64_t number = now.time_since_epoch() / (limits_.window / kSlots);
  Slot& slot = slots_[static_cast<size_t>(number % kSlots)];
  if (slot.number != number) slot = {.number = number};
  return slot;
}

void RetryBudget::OnRequest(MonoTime now) { ++At(now).requests; }

bool RetryBudget::TryRetry(MonoTime now) {
  Slot& current = At(now);
  uint64_t requests = 0, retries = 0;
  for (const Slot& slot : slots_) {
    if (slot.number < 0 || current.number - slot.number >= kSlots) continue;
    requests += slot.requests;
    retries += slot.retries;
  }
  const auto share = static_cast<uint64_t>(limits_.ratio * static_cast<double>(requests));
  if (retries >= limits_.min + share) return false;
  ++current.retries;
  return true;
}

}  // namespace choir
