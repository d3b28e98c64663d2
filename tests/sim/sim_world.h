// A whole cluster in one process under virtual time: a gateway, routers, groups of ranks, disks,
// and what happens to them, all drawn from one seed. After a time of disasters everything heals;
// then every request must have ended, with the bytes of an undisturbed run or with an error that
// its fate explains, and every ledger must be even.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/sim_gateway.h"

namespace choir::sim {

struct WorldOptions {
  uint64_t seed = 1;
  bool calm = false;     // nothing happens
  bool verbose = false;  // says what happens, when
};

struct WorldReport {
  std::vector<std::string> failures;  // empty: all held
  size_t requests = 0, finished = 0, failed = 0, cancelled = 0;
  uint64_t resumes = 0;   // at another router
  uint64_t taken_up = 0;  // after the gateway's death
  uint64_t events = 0;
  double virtual_seconds = 0;
};

// What cannot change between worlds; read once.
const RouterStatics& Statics();

WorldReport RunWorld(const WorldOptions& options);

}  // namespace choir::sim
