// One rank: the worker's real streams' hub, sequence table, scheduler, block pool and sampler, with
// a model whose logits are a hash of the sequence, under virtual time. A dead rank is gone with all
// it had; a paused one neither reads nor computes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/sim_random.h"
#include "tests/sim/sim_stream.h"
#include "tests/sim/sim_time.h"
#include "worker/rpc/router_hub.h"

namespace choir::sim {

struct SimModel {
  int32_t vocab = 0;
  int32_t context_length = 0;
};

struct RankOptions {
  uint32_t group = 0;
  uint32_t rank = 0;
  uint32_t group_size = 1;
  int64_t step_tokens = 32;
  int64_t sequences_max = 8;
  int64_t kv_blocks = 64;
  int64_t block_tokens = 8;
  bool prefix_cache = true;
  int64_t step_us_max = 3000;
};

class SimRank {
 public:
  SimRank(SimTime* time, SimRandom* random, SimModel model, RankOptions options);
  ~SimRank();

  void Boot();
  void Die();
  bool alive() const { return process_ != nullptr; }
  void PauseUntil(MonoTime when);
  bool paused() const;
  // 0: none; its sequences end as lost.
  void SetEpoch(uint64_t epoch, const std::string& reason);
  uint64_t epoch() const;
  uint64_t steps() const;  // since it booted

  // Null: nobody listens. The stream's rank end is this rank's from now on.
  bool Accept(std::shared_ptr<SimStream> stream);
  const std::vector<std::shared_ptr<SimStream>>& streams() const { return streams_; }

  // What must hold once all is quiet; names what does not.
  std::string Leftovers() const;
  const RankOptions& options() const { return options_; }

 private:
  class Process;

  SimTime* const time_;
  SimRandom* const random_;
  const SimModel model_;
  const RankOptions options_;
  uint64_t incarnations_ = 0;
  std::shared_ptr<Process> process_;
  std::vector<std::shared_ptr<SimStream>> streams_;
  MonoTime paused_until_{};
};

}  // namespace choir::sim
