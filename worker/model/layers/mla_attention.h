// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in its absorbed form for prompt and
// generated tokens alike: the cache holds the normed latent and the rotated shared key; queries are
// brought into the latent's space by kv_b's key half, results out of it by its value half. One
// object serves all layers of a model; owner thread only.
#pragma once

#include "worker/model/config/model_config.h"
#include "worker/model/layers/layer_context.h"

namespace choir {

class MlaAttention {
 public:
  static StatusOr<MlaAttention> Make(Device* device, const ModelConfig& config, Compute compute,
                                     RopeTables tables, int64_t rows_max);

  // Weights of Forward's first product with `normed`.
  const LinearWeights& FirstProduct(const MlaWeights& w) const {
    return config_.q_lora == 0 ? w.q : w.q_a;
  }
  // residual += o(attention(normed)). Both [rows, hidden] f32; rows > 0.
  void Forward(const MlaWeights& w, const LayerKvView& kv, const KernelSet& kernels,
               const StepContext& step, const ProductInput& normed, TensorView residual) const;

 private:
  MlaAttention() = default;
  void Project(const MlaWeights& w, const KernelSet& kernels, const StepContext& step,
               const ProductInput& normed) const;
  void SplitQueries(const MlaWeights& w, const KernelSet& kernels, const StepContext& step) const;

  MlaConfig config_;
  RopeConfig rope_;
  RopeTables tables_;
  float scale_ = 0;
  Compute compute_ = Compute::kF32;
  ScratchRows q_lora_, q_, q_rope_, q_latent_, latent_, out_latent_, out_;
};

}  // namespace choir
