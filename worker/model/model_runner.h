// Runs one rank's Model step by step without an engine: the caller says which tokens, the runner
// keeps a flat KV pool and gives the logits of every row. On the model's device. For offline
// commands and tests. Owner thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/runtime/thread_team.h"
#include "worker/comm/collectives.h"
#include "worker/comm/expert_exchange.h"
#include "worker/model/exchange_maker.h"
#include "worker/model/model.h"
#include "worker/model/slot_sizes.h"

namespace choir {

struct RunnerOptions {
  int64_t step_tokens = 128;  // most rows of a step; the same on every rank
  int64_t positions_max = 0;  // of a sequence; 0: the model's context length
  int64_t block_tokens = 32;
  int sequences = 1;  // numbered from 0
  int num_threads = 1;
  int64_t graph_rows_max = 0;  // ModelLimits::graph_rows_max
  SlotOptions slots;
  int64_t micro_batch_rows = 0;  // that of ExchangeSizes
  // By layer with experts, the same on every rank; empty: FirstPlacement.
  std::vector<ExpertPlacement> placement;
};

class ModelRunner {
 public:
  struct Rows {
    int sequence = 0;
    std::span<const int32_t> tokens;  // in [0, vocab)
    int32_t first_position = 0;       // how many tokens of the sequence went before
  };

  // `collectives` outlives the runner.
  static StatusOr<std::unique_ptr<ModelRunner>> Make(std::shared_ptr<const LoadedModel> loaded,
                                                     const KernelSet* kernels,
                                                     Collectives* collectives,
                                                     const RunnerOptions& options);

  // All ranks step together; `rows` may be empty. Returns [all rows, vocab], valid until the next
  // Step.
  StatusOr<std::span<const float>> Step(std::span<const Rows> rows);
  Model& model() { return *model_; }

 private:
  ModelRunner(std::shared_ptr<const LoadedModel> loaded, const RunnerOptions& options)
      : loaded_(std::move(loaded)), options_(options), team_(options.num_threads) {}
  Status Allocate(const KernelSet& kernels, int num_ranks);
  Status TellTokens(int64_t own);
  int64_t SlotOutputRows(Collectives* collectives) const;
  Status PlaceExperts(const Collectives& collectives);

  const std::shared_ptr<const LoadedModel> loaded_;
  const RunnerOptions options_;
  ThreadTeam team_;
  ExchangeMaker exchanges_;
  Collectives* collectives_ = nullptr;
  std::unique_ptr<ExpertExchange> exchange_;
  std::unique_ptr<Model> model_;
  std::shared_ptr<const PlacedExperts> experts_;  // null for a model without any
  int32_t expert_slots_ = 0;
  DeviceBuffer workspace_, pool_;
  StagedBuffer logits_;
  Stream stream_;
  std::vector<LayerKvView> kv_;
  std::vector<std::vector<int32_t>> block_tables_;  // by sequence
};

}  // namespace choir
