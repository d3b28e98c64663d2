#include "router/policy/policy.h"

#include <algorithm>

namespace choir {

const char* RouteReasonName(RouteReason reason) {
  return reason == RouteReason::kOnlyOne ? "only_one" : "least_load";
}

uint64_t LoadOf(const WorkerView& worker) {
  const WorkerLoad& reported = worker.reported;
  const uint64_t sequences =
      std::max<uint64_t>(worker.assigned_sequences, uint64_t{reported.running} + reported.waiting);
  const uint64_t tokens = std::max(worker.assigned_tokens, reported.waiting_tokens);
  return sequences * kDecodeWeight + tokens;
}

std::optional<Pick> PickWorker(const Snapshot& snapshot, const PlaceQuery& query) {
  const WorkerView* best = nullptr;
  uint64_t best_load = 0;
  uint32_t candidates = 0;
  for (const WorkerView& worker : snapshot.workers) {
    if (worker.phase != WorkerPhase::kReady) continue;
    const WorkerIdentity& identity = *worker.identity;
    if (!query.numerics_id.empty() && identity.numerics_id != query.numerics_id) continue;
    const Placement here{worker.index, worker.connection, worker.epoch, {}};
    if (std::any_of(query.passed.begin(), query.passed.end(),
                    [&](const Placement& p) { return p.SameLife(here); })) {
      continue;
    }
    ++candidates;
    const uint64_t load = LoadOf(worker);
    if (best == nullptr || load < best_load ||
        (load == best_load && identity.worker_id < best->identity->worker_id)) {
      best = &worker;
      best_load = load;
    }
  }
  if (best == nullptr) return std::nullopt;
  return Pick{
      .placement = {best->index, best->connection, best->epoch, best->identity->numerics_id},
      .reason = candidates == 1 ? RouteReason::kOnlyOne : RouteReason::kLeastLoad};
}

}  // namespace choir
