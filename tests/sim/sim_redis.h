// Redis as the routers of a simulation share it: the real server runs the real script, at virtual
// times. A call reaches it late, and so does its answer; while it is away neither arrives, and what
// it holds stays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "router/limits/redis/script_runner.h"
#include "tests/sim/sim_random.h"
#include "tests/sim/sim_time.h"

namespace choir::sim {

class SimRedis {
 public:
  // `name` is unique among the simulations of a process: all its processes share one server.
  SimRedis(SimTime* time, SimRandom* random, const std::string& name)
      : time_(time), random_(random), prefix_(name + ":") {}

  // A router's connection. `later` runs a task after a delay unless that router's life is over by
  // then; false: it is already.
  using Later = std::function<bool(Duration delay, std::function<void()> task)>;
  std::unique_ptr<ScriptRunner> Connect(Later later);

  void AwayUntil(MonoTime when) { away_until_ = std::max(away_until_, when); }
  const std::string& prefix() const { return prefix_; }  // of all keys

 private:
  class Link;

  SimTime* const time_;
  SimRandom* const random_;
  const std::string prefix_;
  MonoTime away_until_{};
};

}  // namespace choir::sim
