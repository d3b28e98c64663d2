// Collectives whose ranks are threads of one process: `choir generate --ranks N`, tests,
// simulation. And the one-rank communicator.
#pragma once

#include <memory>
#include <vector>

#include "worker/comm/collectives.h"

namespace choir {

// One communicator per rank; they share state and may outlive each other.
std::vector<std::unique_ptr<Collectives>> MakeLocalCollectives(int num_ranks, uint64_t generation,
                                                               const CollectivesOptions& options);
std::unique_ptr<Collectives> MakeSingleCollectives(uint64_t generation);

}  // namespace choir
