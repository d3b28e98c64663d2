// One router process: the real core with real membership, policy, relay, identity and conversions,
// its streams to the ranks and its clock simulated. Killed, it is gone with all it had.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "router/core/router_core.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_rank.h"

namespace choir::sim {

// Shared by all worlds of a process: what is read from disk once.
struct RouterStatics {
  const ModelText* model = nullptr;
  const Identity* identity = nullptr;
  RouterMetrics* metrics = nullptr;
};
inline constexpr char kSecret[] = "ck-sim";
// Keys of as many tenants, with a class each, highest first.
inline constexpr const char* kClassSecrets[] = {"ck-sim-0", "ck-sim-1", "ck-sim-2", "ck-sim-3"};

class SimRouter final : private WorkerLinks {
 public:
  SimRouter(std::string name, SimTime* time, SimRandom* random, const RouterStatics& statics,
            std::vector<SimRank*> ranks, SimDisk* disk, AdmissionConfig admission,
            uint64_t requests_max);
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
  const AdmissionConfig admission_config_;
  const uint64_t requests_max_;
  std::shared_ptr<Life> life_;
};

}  // namespace choir::sim
