// What the clients of a simulation ask, drawn from a seed.
#pragma once

#include <vector>

#include "tests/sim/sim_gateway.h"

namespace choir::sim {

std::vector<SimRequest> DrawRequests(SimRandom* random, size_t count, Duration within);

}  // namespace choir::sim
