// Keeps the experts of a rank where their load wants them, while steps go on (docs/decisions/0032).
// All ranks of an epoch do the same at the same steps:
//
//   measure  every so many steps the ranks tell each other how many rows each of their experts had.
//   plan     each rank plans by itself (placement_planner.h), in this object's thread, and reads
//            the experts that it gets from the model's files there.
//   agree    with every step a rank says what it has ready (vote). When all have the same, all
//            switch before that step is computed. One that failed ends the attempt for all: the
//            placement in force stays, until loads are measured the next time.
//
// An epoch begins with the placement that ranks load at their start, so one that was started again
// agrees with the others. Owned by the engine; its owner thread, but for the thread inside, which
// only plans, reads weights and gives memory back.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "common/base/status.h"
#include "worker/comm/collectives.h"
#include "worker/engine/placement_planner.h"
#include "worker/model/model.h"

namespace choir {

struct ExpertMoverOptions {
  int32_t redundant = 0;       // experts of a layer beyond an even share; 0: nothing moves
  bool cover = false;          // PlacementProblem::cover
  int64_t window_steps = 256;  // between two measurements, at least
};

// Since the engine was made, but for what is of now.
struct ExpertPlacementStats {
  double rank_imbalance = 0;  // busiest rank over the mean, averaged over layers; 0: not known yet
  uint64_t version = 0;       // of now: placements put in force in this epoch
  int64_t copies = 0;         // of now: beyond the first, of all ranks and layers
  int64_t sole = 0;           // of now: experts of all layers that one rank alone holds
  uint64_t moves = 0;         // experts that this rank read
  uint64_t applied = 0, kept = 0, failed = 0;  // attempts by how they ended
};

class ExpertMover {
 public:
  // `loaded` outlives the mover and has experts.
  ExpertMover(const ExpertMoverOptions& options, const LoadedModel* loaded, int num_ranks);
  ~ExpertMover();

  Status BeginEpoch(int32_t rank);
  const PlacedExperts* placed() const { return placed_.get(); }  // null before the first epoch
  // What goes along into the next step.
  uint64_t vote();
  // Before each step, with what all ranks said of it. Errors mean that the communicator is dead.
  Status BeforeStep(Collectives* collectives, std::span<const uint64_t> votes, int64_t group_tokens,
                    const ExpertCounts& counts);
  const ExpertPlacementStats& stats() const { return stats_; }

 private:
  static constexpr uint64_t kPending = 0, kFailed = 1;  // votes; else DigestOf

  struct Job {
    std::vector<uint64_t> loads;
    std::shared_ptr<const PlacedExperts> before;
    std::stop_source stop;
  };
  using Result = StatusOr<std::shared_ptr<const PlacedExperts>>;  // of a job; unchanged: `before`

  Status Measure(Collectives* collectives, const ExpertCounts& counts);
  void TakeLoads(std::span<const uint32_t> rows, int32_t ranks);
  void StartJob();
  void EndAttempt(std::span<const uint64_t> votes);
  void Switch(std::shared_ptr<const PlacedExperts> next);
  void DropJob();
  void Replace(std::shared_ptr<const PlacedExperts> next);
  void CountCopies();
  Result Run(const Job& job) const;
  void Loop(const std::stop_token& stop);

  const ExpertMoverOptions options_;
  const LoadedModel& loaded_;
  const int32_t num_ranks_;

  // The owner's.
  std::shared_ptr<const PlacedExperts> placed_;
  std::vector<uint64_t> window_;  // counts at its begin
  std::vector<uint64_t> loads_;   // [layers, experts]: of all ranks; older windows count for less
  int64_t window_steps_ = 0, window_tokens_ = 0;
  bool attempting_ = false;
  ExpertPlacementStats stats_;

  std::mutex mu_;  // guards what follows
  std::condition_variable_any changed_;
  std::shared_ptr<Job> job_;                                // null: none
  std::optional<Result> result_;                            // of job_
  uint64_t vote_ = kPending;                                // on result_
  std::vector<std::shared_ptr<const PlacedExperts>> gone_;  // whose memory is to be given back
  std::jthread thread_;                                     // started with the first job
};

}  // namespace choir
