// The decoder that all families share: embedding, layers of attention and feed-forward over an FP32
// residual stream, final norm and head on the rows whose logits are wanted.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "worker/model/layers/ffn.h"
#include "worker/model/layers/gqa_attention.h"
#include "worker/model/layers/mla_attention.h"
#include "worker/model/loaded_model.h"
#include "worker/model/step_graphs.h"

namespace choir {

class Transformer final : public Model {
 public:
  static StatusOr<std::unique_ptr<Model>> Make(std::shared_ptr<const LoadedTransformer> loaded,
                                               const KernelSet* kernels, const ModelLimits& limits);

  const LoadedModel& loaded() const override { return *loaded_; }
  Status Forward(const ModelBatch& batch, ExpertExchange* exchange, const Stream& stream) override;
  const ExpertCounts& expert_counts() const override;
  GraphStats graphs() const override { return graphs_.stats(); }

 private:
  Transformer(std::shared_ptr<const LoadedTransformer> loaded, const KernelSet* kernels)
      : loaded_(std::move(loaded)), kernels_(*kernels) {}
  Status Allocate(const ModelLimits& limits);
  const TensorView& FirstProduct(const LayerWeights& w) const;
  Status MakeRoundedRoom(int64_t ffn_width);
  Status MakeRopeTables(int64_t positions);
  void ExtendRopeTables(const ModelBatch& batch);
  void CheckBatch(const ModelBatch& batch) const;
  void Prepare(const ModelBatch& batch);
  GraphBucket BucketOf(const ModelBatch& batch) const;
  Status RunAsGraph(const ModelBatch& batch, const GraphBucket& bucket, const Stream& stream);
  Status RunLayers(StepContext step);
  Status RunMicroBatches(const ModelBatch& batch, std::span<ExpertExchange* const> exchanges,
                         const Stream& stream);
  void Embed(const StepContext& step) const;
  void Attention(size_t layer, const StepContext& step);
  void NormForFfn(const LayerWeights& w, const StepContext& step, const ProductInput& normed) const;
  Status FeedForward(const LayerWeights& w, const StepContext& step);
  Status BeginLayer(size_t layer, const StepContext& step);
  Status EndLayer(size_t layer, const StepContext& step);
  void Logits(const StepContext& step) const;

  const std::shared_ptr<const LoadedTransformer> loaded_;
  const KernelSet& kernels_;
  ModelLimits limits_;
  StepInputs inputs_;
  StepGraphs graphs_;
  StagedBuffer rope_buffer_;
  RopeTables rope_tables_;
  int64_t rope_filled_ = 0;  // positions
  ScratchRows residual_, normed_, logit_rows_;
  DeviceBuffer rounded_;  // of rounded_room_, if the kernels want it
  RoundedRoom rounded_room_;
  std::optional<GqaAttention> gqa_;
  std::optional<MlaAttention> mla_;
  std::optional<DenseFfn> dense_;
  std::optional<MoeFfn> moe_;
};

}  // namespace choir
