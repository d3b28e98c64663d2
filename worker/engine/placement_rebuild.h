// A layer's placement from nothing but its load, for the planner where changing the one in force
// step by step does not help any more. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "worker/comm/expert_placement.h"

namespace choir {

// Gives the experts with most rows copies until no copy is of much weight, and puts each copy where
// least is, heaviest first. Ranks are then numbered so that `current` has to move little; how even
// it is depends on the loads only. copies_min: of every expert, where there is room. Nothing: some
// copy found no rank.
std::optional<ExpertPlacement> RebuildPlacement(const ExpertPlacement& current,
                                                std::span<const uint64_t> loads, int32_t slots,
                                                int32_t copies_min);

}  // namespace choir
