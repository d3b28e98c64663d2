// Grouped-query attention of one rank: projections, optional norms of q and k, rope, paged keys and
// values. One object serves all layers of a model; owner thread only.
#pragma once

#include "worker/model/config/model_config.h"
#include "worker/model/layers/layer_context.h"

namespace choir {

// What is one layer's own.
struct GqaLayer {
  const GqaWeights& weights;
  const LayerKvView& kv;
  int64_t window = 0;  // as in PagedAttentionArgs
};

class GqaAttention {
 public:
  static StatusOr<GqaAttention> Make(Device* device, const ModelConfig& config, Compute compute,
                                     RopeTables tables, int64_t rows_max);

  // residual += o(attention(normed)). Both [rows, hidden] f32; rows > 0.
  void Forward(const GqaLayer& layer, const KernelSet& kernels, const StepContext& step,
               const ProductInput& normed, TensorView residual) const;

 private:
  GqaAttention() = default;
  void NormHeads(const KernelSet& kernels, const StepContext& step, TensorView norm, TensorView x,
                 int64_t heads) const;
  void RotateHeads(const KernelSet& kernels, const StepContext& step, TensorView x,
                   int64_t heads) const;

  GqaConfig config_;
  RopeConfig rope_;
  RopeTables tables_;
  float norm_eps_ = 0, scale_ = 0;
  Compute compute_ = Compute::kF32;
  ScratchRows q_, k_, v_, out_;
};

}  // namespace choir
