// A decision, explained: every worker's part in it. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "router/policy/policy.h"

namespace choir {

struct ExplainedRank {
  const WorkerView* worker = nullptr;
  std::string excluded;  // why it is not a candidate; empty: it is one
  Score score;           // of a candidate
  bool picked = false;
};

struct Explanation {
  std::optional<Pick> pick;
  std::vector<ExplainedRank> ranks;  // candidates first, the cheapest first
};

// `workers` are all there are, and outlive the explanation.
Explanation Explain(const Policy& policy, const RankTable& ranks,
                    const std::vector<WorkerView>& workers, const PlaceQuery& query);

}  // namespace choir
