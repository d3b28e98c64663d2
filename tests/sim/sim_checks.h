// What must hold at the end of a simulation, whatever happened in it. Each adds a line a failure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/sim/sim_cluster.h"

namespace choir::sim {

using Failures = std::vector<std::string>;
using Answers = std::map<std::string, SimAnswer>;

// Everybody got an end: the bytes of the undisturbed run, or an error that its fate explains.
void CheckAnswers(Cluster& cluster, const std::vector<SimRequest>& requests,
                  const Answers& expected, Failures* failures);
// The records of all disks and what the clients saw tell the same story.
void CheckAudit(Cluster& cluster, const std::vector<SimRequest>& requests, Failures* failures);
// At any time: queues keep to their bounds, and what runs is what is on record.
void CheckBounds(Cluster& cluster, Failures* failures);
// No class was let more than its ceiling.
void CheckCeilings(const Cluster& cluster, Failures* failures);
// Nothing is left anywhere, and every ledger is even.
void CheckLedgers(Cluster& cluster, Failures* failures);

}  // namespace choir::sim
