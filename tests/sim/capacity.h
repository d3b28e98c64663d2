// Capacity runs: one router core with very many ranks and open requests, to see that the cost of a
// decision does not grow with what is open.
#pragma once

#include <cstdint>

namespace choir::sim {

struct CapacityOptions {
  uint32_t ranks = 10'000;
  uint64_t requests = 1'000'000;  // open at once at the end
};

// Prints a table: requests open, time of opening one, time of a step's token, bytes of a request.
void RunCapacity(const CapacityOptions& options);

}  // namespace choir::sim
