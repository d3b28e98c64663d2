#include "router/policy/policy.h"

#include <algorithm>

#include "common/base/check.h"
#include "router/policy/least_load.h"
#include "router/policy/power_of_two.h"
#include "router/policy/prefix_affinity.h"
#include "router/policy/sticky_user.h"

namespace choir {

const char* RouteReasonName(RouteReason reason) {
  switch (reason) {
    case RouteReason::kOnlyOne:
      return "only_one";
    case RouteReason::kLeastLoad:
      return "least_load";
    case RouteReason::kSibling:
      return "sibling";
    case RouteReason::kPowerOfTwo:
      return "power_of_two";
    case RouteReason::kPrefix:
      return "prefix";
    case RouteReason::kStickyUser:
      return "sticky_user";
  }
  return "?";
}

Candidates::Candidates(const RankTable& ranks, const PlaceQuery& query)
    : ranks_(ranks), query_(query), size_(ranks.CountOf(query.numerics_id)) {
  for (auto p = query.passed.begin(); p != query.passed.end() && size_ > 0; ++p) {
    const bool counted = std::any_of(query.passed.begin(), p,
                                     [&](const Placement& other) { return p->SameLife(other); });
    const WorkerView* rank = counted ? nullptr : ranks.Find(p->worker);
    const bool fits = rank != nullptr && (query.numerics_id.empty() ||
                                          rank->identity->numerics_id == query.numerics_id);
    if (fits && p->IsOf(*rank)) --size_;
  }
}

bool Candidates::Allows(const WorkerView& rank) const {
  if (!query_.numerics_id.empty() && rank.identity->numerics_id != query_.numerics_id) return false;
  return std::none_of(query_.passed.begin(), query_.passed.end(),
                      [&](const Placement& p) { return p.IsOf(rank); });
}

const WorkerView* Candidates::LeastLoaded() const {
  if (size_ == 0) return nullptr;
  for (const RankTable::ByLoad& entry : ranks_.by_load()) {
    if (Allows(*entry.worker)) return entry.worker;
  }
  return nullptr;
}

Score Policy::ScoreOf(const WorkerView& rank, const PlaceQuery& query) const {
  Score score{.load = LoadOf(rank), .overlap_tokens = OverlapOf(rank, query)};
  score.to_compute = query.num_tokens - score.overlap_tokens;
  for (const Sibling& sibling : query.siblings) {
    if (!sibling.placement.IsOf(rank)) continue;
    score.to_compute = 0;
    // It is counted there already.
    if (sibling.waits) {
      score.load -= std::min<uint64_t>(score.load, sibling.placement.counted_tokens);
    }
  }
  return score;
}

// A rank that has siblings need not compute the prompt again, which makes up for that much other
// work.
std::optional<Pick> Policy::Choose(const RankTable& ranks, const PlaceQuery& query) const {
  const Candidates candidates(ranks, query);
  if (candidates.size() == 0) return std::nullopt;
  Liked liked{.rank = nullptr, .reason = RouteReason::kOnlyOne};
  if (candidates.size() == 1) {
    liked.rank = candidates.LeastLoaded();
  } else {
    liked = Like(candidates);
    const auto better = [&](const WorkerView& a, const WorkerView& b) {
      const uint64_t cost_a = ScoreOf(a, query).cost(), cost_b = ScoreOf(b, query).cost();
      return cost_a != cost_b ? cost_a < cost_b : RankOrder(*a.identity, *b.identity);
    };
    for (const Sibling& sibling : query.siblings) {
      const WorkerView* rank = ranks.Find(sibling.placement.worker);
      if (rank == nullptr || !sibling.placement.IsOf(*rank) || !candidates.Allows(*rank)) continue;
      if (rank == liked.rank || better(*rank, *liked.rank)) {
        liked = {.rank = rank, .reason = RouteReason::kSibling};
      }
    }
  }
  const WorkerView& rank = *liked.rank;
  Pick pick{.placement = {rank.index, rank.connection, rank.epoch, rank.identity->numerics_id},
            .reason = liked.reason};
  pick.placement.predicted_tokens = OverlapOf(rank, query);
  pick.placement.counted_tokens = query.num_tokens - pick.placement.predicted_tokens;
  return pick;
}

std::unique_ptr<Policy> MakePolicy(const PolicySettings& settings) {
  if (settings.name == "power_of_two") return std::make_unique<PowerOfTwoPolicy>(settings.seed);
  if (settings.name == "prefix_affinity") {
    return std::make_unique<PrefixAffinityPolicy>(
        static_cast<uint32_t>(settings.index_blocks_max),
        static_cast<uint64_t>(settings.imbalance_tokens_max));
  }
  if (settings.name == "sticky_user") {
    return std::make_unique<StickyUserPolicy>(static_cast<uint64_t>(settings.imbalance_tokens_max));
  }
  CHOIR_CHECK(settings.name == "least_load");
  return std::make_unique<LeastLoadPolicy>();
}

}  // namespace choir
