// Where the experts of a model should lie: from the load of each expert and the placement that is
// in force to a better one that few experts have to move for. Pure and deterministic: every rank of
// a group plans by itself, from the same numbers, and gets the same.
//
// Load is counted in rows. Of an expert with k copies each gets a k-th. A layer is as slow as its
// busiest rank, so that rank is relieved until nothing helps any more: an expert of it moves or is
// copied to another rank, or to several, perhaps in exchange for one of that rank, or a needless
// copy is dropped, whichever relieves most for an expert read. A step that relieves it by less than
// 2 % of the mean load for an expert read is not taken, and what all steps of a layer gain has to
// be 5 %, so the same load moves nothing, and neither does noise.
// Where that leaves more than a tenth above the mean, the layer is also planned from nothing
// (placement_rebuild.h), which is taken where it gains 5 % more and the moves allow it.
//
// Cost: a step looks at O(ranks · slots²) changes in O(copies) each; steps are at most the moves.
// On 8 ranks of 34 slots (DeepSeek-V3, 58 layers of 256 experts) see docs/benchmarks.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/comm/expert_placement.h"

namespace choir {

struct PlacementProblem {
  std::span<const ExpertPlacement> current;  // by layer; at least one, of equal shape
  std::span<const uint64_t> loads;           // [layers, experts]: rows
  int32_t slots = 0;  // experts of a layer that a rank may hold (ExpertSlots)
  // Any one rank may vanish: every expert gets a second copy while there is room, before anything
  // else, and keeps it.
  bool cover = false;
  int64_t moves_max = 0;  // experts that one rank may have to read, all layers together
};

struct PlannedPlacement {
  std::vector<ExpertPlacement> layers;
  int64_t moves = 0;  // experts that ranks have to read, all together
};

// REQUIRES: `current` fits the slots. So does the answer, and every expert is on some rank.
PlannedPlacement PlanPlacement(const PlacementProblem& problem);

// The busiest rank's load over the mean, 1 or more; 1 where nothing was computed.
double RankImbalance(const ExpertPlacement& placement, std::span<const uint64_t> loads);

}  // namespace choir
