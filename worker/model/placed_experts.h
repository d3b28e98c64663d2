// The experts that a rank computes: which rank has which, and the weights of its own. Immutable;
// one value serves every layer of a step, and all steps until the next placement is in force. What
// no value needs any more gives its memory back.
#pragma once

#include <memory>
#include <vector>

#include "kernels/ops/moe.h"
#include "worker/comm/expert_placement.h"

namespace choir {

struct PlacedExperts {
  int32_t rank = 0;
  // All by layer with experts; weights and memory then by slot, as ExpertsOf(rank) has them.
  std::vector<ExpertPlacement> layers;
  std::vector<std::vector<ExpertWeights>> weights;               // empty in models without any
  std::vector<std::vector<std::shared_ptr<const void>>> memory;  // what `weights` view
  int64_t loaded = 0;  // experts that were read from the files to make this value
};

}  // namespace choir
