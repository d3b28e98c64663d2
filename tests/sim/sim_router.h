// One router process: the real core with real membership, policy, relay, identity and conversions,
// its streams to the ranks and its clock simulated. Killed, it is gone with all it had.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/core/router_core.h"
#include "router/limits/limit_config.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_rank.h"
#include "tests/sim/sim_redis.h"

namespace choir::sim {

// Shared by all worlds of a process: what is read from disk once.
struct RouterStatics {
  const ModelText* model = nullptr;
  const Identity* identity = nullptr;
  RouterMetrics* metrics = nullptr;
  std::shared_ptr<const ContentRuleBook> content;  // for worlds with content rules
};
// What all routers of a world have.
struct SimRouterOptions {
  AdmissionConfig admission = {};
  uint64_t requests_max = 10'000;
  std::optional<LimitConfig> limits;
  SimRedis* redis = nullptr;  // null: each router counts its limits on its own
  Duration limit_lease{};     // of a router that is silent towards Redis
  bool content = false;       // with content rules
  size_t results_bytes = 0;   // of answers that are kept; 0: none
};
inline constexpr Duration kResumeGrace = std::chrono::seconds(4);
inline constexpr char kSecret[] = "ck-sim";
inline constexpr char kTenant[] = "t";
// Keys of as many tenants, named like the class that each has, highest first.
inline constexpr const char* kClassSecrets[] = {"ck-sim-0", "ck-sim-1", "ck-sim-2", "ck-sim-3"};

class SimRouter final : private WorkerLinks {
 public:
  SimRouter(std::string name, SimTime* time, SimRandom* random, const RouterStatics& statics,
            std::vector<SimRank*> ranks, SimDisk* disk, SimRouterOptions options);
  ~SimRouter() override;

  void Boot();
  void Die();
  bool alive() const { return life_ != nullptr; }
  // REQUIRES: alive.
  RouterCore& core();
  AdmissionStatus admission() const { return life_->admission->status(time_->Now()); }
  // After whatever made the core do something: its timers are seen to.
  void Tick();

  // Breaks the stream to a rank, or holds it up.
  void CutLink(size_t rank);
  void BlockLink(size_t rank, MonoTime until);

  const std::string& name() const { return name_; }
  uint64_t lives() const { return lives_; }

 private:
  struct Link {
    WorkerIndex worker;
    SimRank* rank = nullptr;
    std::shared_ptr<SimStream> stream;
    uint64_t connection = 0;
    uint32_t vocab = 0;
    Duration backoff = std::chrono::milliseconds(50);
  };
  struct Life {
    std::unique_ptr<Limits> limits;
    std::unique_ptr<Admission> admission;
    std::unique_ptr<ResultCache> results;
    std::unique_ptr<RouterCore> core;
    std::vector<Link> links;
    uint64_t connections = 0;
    MonoTime timer = MonoTime::max();
  };

  void Connect(size_t link);
  void OnFromWorker(size_t link, uint64_t connection, v1::FromWorker message);
  void OnClosed(size_t link, uint64_t connection, const std::string& reason);
  Link* LinkOf(WorkerIndex worker);
  // Runs `f` later unless this life is over by then.
  template <typename F>
  void Later(Duration delay, F f);
  std::unique_ptr<Limits> MakeLimits();

  void Submit(WorkerIndex worker, SequenceSubmit submit) override;
  void Cancel(WorkerIndex worker, SequenceId id) override;
  void Reconcile(WorkerIndex worker, const std::vector<SequenceId>& ids) override;
  void Disconnect(WorkerIndex worker, const std::string& reason) override;

  const std::string name_;
  SimTime* const time_;
  SimRandom* const random_;
  const RouterStatics statics_;
  const std::vector<SimRank*> ranks_;
  SimDisk* const disk_;
  const SimRouterOptions options_;
  uint64_t lives_ = 0;
  std::shared_ptr<Life> life_;
};

}  // namespace choir::sim
