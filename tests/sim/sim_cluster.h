// The processes of a simulation and what can happen to them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_gateway.h"
#include "tests/sim/sim_rank.h"
#include "tests/sim/sim_redis.h"
#include "tests/sim/sim_router.h"
#include "tests/sim/sim_runs.h"

namespace choir::sim {

struct ClusterOptions {
  uint32_t groups = 1;
  uint32_t ranks = 1;  // of each group
  size_t routers = 1;
  int64_t kv_blocks = 64;
  int64_t step_tokens = 32;
  int64_t sequences_max = 8;
  bool tight = false;  // with an admission that may refuse
  AdmissionConfig admission = {};
  uint64_t requests_max = 10'000;
  std::optional<LimitConfig> limits;
  bool shared_limits = false;                      // in Redis
  Duration limit_lease = std::chrono::seconds(2);  // of a router that is silent towards it
  bool content = false;                            // with content rules
  size_t results_bytes = 0;                        // of answers that are kept; 0: none
  bool verbose = false;
};

class Cluster {
 public:
  Cluster(const ClusterOptions& options, uint64_t seed, const RouterStatics& statics);
  ~Cluster();

  SimTime& time() { return time_; }
  SimRandom& random() { return random_; }
  SimGateway& gateway() { return *gateway_; }
  int64_t num_ranks() const { return static_cast<int64_t>(ranks_.size()); }
  int64_t num_routers() const { return static_cast<int64_t>(routers_.size()); }
  SimRank& rank(size_t i) { return *ranks_[i]; }
  SimRouter& router(size_t i) { return *routers_[i]; }
  const SimDisk& disk(size_t i) const { return *disks_[i]; }

  void RunFor(Duration time);

  // Each heals by itself after `time`.
  void KillRank(size_t rank, Duration time);
  void PauseRank(size_t rank, Duration time);
  void KillRouter(size_t router, Duration time);
  void KillGateway(Duration time);
  void CutLink(size_t router, size_t rank);  // connected again at once
  void BlockLink(size_t router, size_t rank, Duration time);
  void SlowDisk(size_t router, Duration time);
  void FullDisk(size_t router, Duration time);
  void LoseRedis(Duration time);

  bool disturbed() const { return disturbed_; }
  // How often a router lost what it knew of the count of limits, or its way to it.
  uint64_t count_losses() const { return apart_.size(); }
  // Since when routers may have counted apart what they count together, and until when: from a loss
  // to its end and a lease and a second more, by when each has told Redis what it holds.
  struct Apart {
    MonoTime from, until;
  };
  const std::vector<Apart>& apart() const { return apart_; }
  const SimRuns& runs() const { return runs_; }
  const ClusterOptions& options() const { return options_; }

  uint64_t events = 0;

 private:
  struct Group {
    uint64_t last_epoch = 0;
    uint64_t forming = 0;  // counts the attempts
  };

  void Say(const std::string& what);
  void LoseCount(Duration time);
  void EndEpoch(uint32_t group, const std::string& why);
  void TryForm(uint32_t group);
  template <typename F>
  void ForRanks(uint32_t group, F f) {
    for (uint32_t r = 0; r < options_.ranks; ++r) f(*ranks_[group * options_.ranks + r]);
  }

  const ClusterOptions options_;
  SimTime time_;
  SimRandom random_;
  SimRuns runs_;
  SimRedis redis_;
  std::vector<std::unique_ptr<SimDisk>> disks_;
  std::vector<std::unique_ptr<SimRank>> ranks_;
  std::vector<Group> groups_;
  std::vector<std::unique_ptr<SimRouter>> routers_;
  std::unique_ptr<SimGateway> gateway_;
  bool disturbed_ = false;
  std::vector<Apart> apart_;
};

}  // namespace choir::sim
