#include "router/policy/sticky_user.h"

namespace choir {

uint64_t SessionHash(std::string_view tenant, std::string_view session) {
  uint64_t hash = MixBits(tenant.size());
  for (const std::string_view part : {tenant, session}) {
    for (const char c : part) hash = MixBits(hash ^ static_cast<uint8_t>(c));
  }
  return hash == 0 ? 1 : hash;
}

Policy::Liked StickyUserPolicy::Like(const Candidates& candidates) const {
  const RankTable& ranks = candidates.ranks();
  const uint64_t session = candidates.query().session;
  const uint64_t most = ranks.least_load() + imbalance_tokens_max_;
  const WorkerView* best = nullptr;
  uint64_t best_weight = 0;
  for (size_t i = 0; session != 0 && i < ranks.size(); ++i) {
    const uint64_t weight = MixBits(session ^ ranks.name_hash(i));
    if (best != nullptr && weight <= best_weight) continue;
    // Seldom: a rank in a row of n beats all before it log n times.
    const WorkerView& rank = ranks.at(i);
    if (LoadOf(rank) > most || !candidates.Allows(rank)) continue;
    best = &rank;
    best_weight = weight;
  }
  if (best == nullptr) return {candidates.LeastLoaded(), RouteReason::kLeastLoad};
  return {best, RouteReason::kStickyUser};
}

}  // namespace choir
