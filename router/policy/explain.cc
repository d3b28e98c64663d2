#include "router/policy/explain.h"

#include <algorithm>

#include "common/base/status.h"

namespace choir {
namespace {

std::string WhyNot(const WorkerView& worker, const Candidates& candidates) {
  if (worker.phase != WorkerPhase::kReady) {
    return fmt::format("{}{}{}", WorkerPhaseName(worker.phase), worker.reason.empty() ? "" : ": ",
                       worker.reason);
  }
  if (candidates.ranks().Find(worker.index) == nullptr) return "its circuit breaker is open";
  if (!candidates.Allows(worker)) return "it just failed this request, or has another numerics id";
  return "";
}

}  // namespace

Explanation Explain(const Policy& policy, const RankTable& ranks,
                    const std::vector<WorkerView>& workers, const PlaceQuery& query) {
  const Candidates candidates(ranks, query);
  Explanation out{.pick = policy.Choose(ranks, query)};
  for (const WorkerView& worker : workers) {
    ExplainedRank& rank = out.ranks.emplace_back();
    rank.worker = &worker;
    rank.excluded = WhyNot(worker, candidates);
    if (rank.excluded.empty()) rank.score = policy.ScoreOf(worker, query);
    rank.picked = out.pick && out.pick->placement.IsOf(worker);
  }
  std::sort(out.ranks.begin(), out.ranks.end(), [](const auto& a, const auto& b) {
    if (a.excluded.empty() != b.excluded.empty()) return a.excluded.empty();
    if (a.score.cost() != b.score.cost()) return a.score.cost() < b.score.cost();
    return RankOrder(*a.worker->identity, *b.worker->identity);
  });
  return out;
}

}  // namespace choir
