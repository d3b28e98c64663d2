// Engine: continuous batching on one rank. One owner thread runs Run(): it drains the inbox, plans
// a step (scheduler.h, pure), computes it together with the other ranks of the epoch, samples, and
// gives the step's tokens to the sink. Idle it sleeps: no CPU.
//
// A communicator lasts one epoch. SetEpoch gives the engine the next one: sequences of the older
// epoch end with Finish::kLost. Without a communicator the engine refuses nothing and computes
// nothing: sequences wait.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "worker/comm/collectives.h"
#include "worker/comm/device_collectives.h"
#include "worker/engine/expert_load.h"
#include "worker/engine/expert_mover.h"
#include "worker/engine/types.h"
#include "worker/model/model.h"
#include "worker/model/slot_sizes.h"

namespace choir {

struct EngineOptions {
  int64_t step_tokens = 512;    // token budget of a step, per rank; 1..65536
  int64_t sequences_max = 256;  // running at once; no more than step_tokens
  int64_t inbox_max = 4096;     // queued submits; a full inbox refuses
  int64_t waiting_max = 4096;   // waiting sequences; beyond it submits are refused
  uint64_t kv_bytes = uint64_t{1} << 30;
  int64_t block_tokens = 32;
  int64_t context_length = 0;  // 0: the model's
  bool prefix_cache = true;    // full blocks stay findable as long as their memory is not needed
  int num_threads = 1;
  int nice = 0;
  int64_t graph_rows_max =
      256;  // decode steps of up to so many rows run as graphs of a GPU; 0: none
  // Where experts lie (expert_mover.h). The same on all ranks of a group.
  int32_t redundant_experts = 0;  // that a rank may hold of a layer beyond an even share
  bool expert_cover = false;      // second copies of all, so that any one rank may vanish
  int64_t placement_steps = 256;  // between two looks at the load of experts, at least
  // What rows on a device may take to other ranks; the collectives of an epoch decide.
  RowPath row_path = RowPath::kHost;
  SlotOptions slots;
  int64_t micro_batch_rows = 0;  // ExchangeSizes has it; the same on all ranks
};

// Everything the metrics of a worker need, taken at any time by any thread. All counts are since
// Make.
struct EngineStats {
  EngineLoad load;
  uint64_t kv_blocks_free = 0, kv_blocks_held = 0, kv_blocks_cached = 0, kv_blocks_total = 0;
  uint64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;
  uint64_t preemptions = 0, steps = 0,
           step_tokens = 0;  // steps in which this rank computed, or helped
  uint64_t rounds = 0;       // of the owner's loop; an idle engine makes one a second
  double prefill_seconds = 0, decode_seconds = 0;  // a mixed step's time is split by its tokens
  GraphStats graphs;
  double last_step_wall = 0;  // unix seconds of the last finished step, or idle check
  ExchangeStats exchange;
  std::shared_ptr<const ExpertLoad> experts;  // null: none, or nothing was counted yet
  ExpertPlacementStats placement;
  int64_t ledger_difference = 0;  // kv blocks: free + held + cached - total; must be 0
};

class Engine {
 public:
  // Called on the owner thread after each step and whenever sequences end without one. Must not
  // block.
  using Sink = std::function<void(StepOutput)>;

  static StatusOr<std::unique_ptr<Engine>> Make(const EngineOptions& options,
                                                std::shared_ptr<const LoadedModel> loaded,
                                                const KernelSet* kernels, int num_ranks, Sink sink);
  // As Make, with a model that is already made (tests bring a fake one). `kernels` sizes the
  // workspace and may be null when the model uses none.
  static StatusOr<std::unique_ptr<Engine>> MakeWithModel(const EngineOptions& options,
                                                         std::unique_ptr<Model> model,
                                                         const KernelSet* kernels, int num_ranks,
                                                         Sink sink);
  // What Make will allocate on the device of `sizes` (LoadOptions::beside_weights), which measures.
  static StatusOr<size_t> BytesBeside(const EngineOptions& options,
                                      std::shared_ptr<const LoadedModel> sizes,
                                      const KernelSet* kernels, int num_ranks);
  // Whether Make could do it with a model like `sizes` on its device, as far as that is known
  // before weights are read (LoadOptions::check). InvalidArgument names the option;
  // ResourceExhausted: the host has not that much memory.
  static Status Check(const EngineOptions& options, const LoadedModel& sizes, int num_ranks);
  // What Make asks of the model; for those who make it themselves.
  static StatusOr<ModelLimits> LimitsFor(const EngineOptions& options, const ModelInfo& info,
                                         int num_ranks);
  virtual ~Engine() = default;

  // Any thread. ResourceExhausted when the inbox is full. What is wrong with the request itself
  // (too long, bad token id) comes back through the sink as Finish::kRefused with a message.
  virtual Status Submit(SequenceRequest request) = 0;
  // Any thread. Ends with Finish::kCancelled (or as it ended before); blocks are free within one
  // step. Ids that are not living are ignored.
  virtual void Cancel(SequenceId id) = 0;
  virtual EngineStats stats() const = 0;
  // What the experts here computed. While nobody is in Run.
  virtual const ExpertCounts& expert_counts() const {
    static const ExpertCounts none;
    return none;
  }

  // Any thread. Takes effect at the next step border; nullptr: no epoch now. The epoch before is
  // aborted on all its ranks, so that nobody waits in it. Its size must be the num_ranks of Make.
  virtual void SetEpoch(std::shared_ptr<Collectives> collectives) = 0;
  // Called on the owner thread when a collective of the current epoch failed, not when SetEpoch
  // ended it. Set it before Run.
  virtual void OnEpochFailed(std::function<void(uint64_t generation, Status)> callback) = 0;
  // Called once, on the owner thread, when the model's device failed: no step can be computed until
  // the process is started again. Sequences end with kLost. Set it before Run.
  virtual void OnDeviceFailed(std::function<void(Status)> callback) = 0;

  virtual void Run() = 0;  // until Stop
  // Any thread. Sequences end with kCancelled; the epoch is aborted: without this rank's experts
  // its peers cannot go on.
  virtual void Stop() = 0;
};

}  // namespace choir
