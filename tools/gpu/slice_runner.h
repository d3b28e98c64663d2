// Steps of one rank's model as its engine takes them, without an engine: random tokens over a KV
// pool that is full of random numbers, logits of the rows that are sampled, and the sampler on the
// device. Owner thread only; the host's waits between layers are the model's own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/runtime/thread_team.h"
#include "tools/gpu/slice_model.h"
#include "worker/comm/collectives.h"
#include "worker/model/exchange_maker.h"
#include "worker/model/model.h"

namespace choir::gpu {

struct SliceLimits {
  int64_t rows_max = 4096;  // of a step
  int64_t sequences_max = 128;
  int64_t context = 4096;  // of each sequence, in whole blocks
  int64_t block_tokens = 64;
  bool graphs = false;  // of decode steps
};

class SliceRunner {
 public:
  // `kernels` outlives it. The device is that of `loaded`, and may be one that only measures; then
  // no step can be taken.
  static StatusOr<std::unique_ptr<SliceRunner>> Make(std::shared_ptr<const LoadedModel> loaded,
                                                     const KernelSet* kernels,
                                                     const SliceLimits& limits);

  const std::vector<Piece>& pieces() const { return pieces_; }  // the KV pool
  // Each of `sequences` has one more token at the end of its context.
  Status Decode(int64_t sequences);
  // The first `rows` tokens of one sequence; its last row is sampled.
  Status Prefill(int64_t rows);
  GraphStats graphs() const { return model_->graphs(); }
  // Of the last step: the first sequence's logits.
  StatusOr<std::vector<float>> FirstLogits();

 private:
  SliceRunner(std::shared_ptr<const LoadedModel> loaded, const KernelSet* kernels,
              const SliceLimits& limits)
      : loaded_(std::move(loaded)), kernels_(*kernels), limits_(limits), team_(1) {}
  Status Allocate();
  Status AllocatePool();
  struct Rows {
    int64_t sequence, first, count;
  };
  Status Step(const std::vector<Rows>& rows);

  const std::shared_ptr<const LoadedModel> loaded_;
  const KernelSet& kernels_;
  const SliceLimits limits_;
  ThreadTeam team_;
  std::unique_ptr<Collectives> collectives_;
  std::shared_ptr<const PlacedExperts> experts_;
  ExchangeMaker exchanges_;
  std::unique_ptr<ExpertExchange> exchange_;
  std::unique_ptr<Model> model_;
  DeviceBuffer workspace_, pool_, logits_;
  StagedBuffer ids_;
  DeviceBuffer first_logits_;  // host
  Stream stream_;
  std::vector<LayerKvView> kv_;
  std::vector<Piece> pieces_;
  std::vector<int32_t> table_;  // blocks of sequence s: from s * blocks_each_ on
  int64_t blocks_each_ = 0;
};

}  // namespace choir::gpu
