// Limits of tenants in a simulation: drawn, and counted from outside.
#pragma once

#include <string>
#include <vector>

#include "router/limits/limit_config.h"
#include "tests/sim/sim_checks.h"
#include "tests/sim/sim_random.h"

namespace choir::sim {

// The same for each tenant; tight enough to refuse some.
LimitConfig DrawLimits(SimRandom* random);

// What any window of time admitted is within what its limits allow, by what clients saw and by the
// usage on record; and no tenant ran more at once than it may.
void CheckLimits(Cluster& cluster, const std::vector<SimRequest>& requests, Failures* failures);

}  // namespace choir::sim
