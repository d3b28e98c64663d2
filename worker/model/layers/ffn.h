// Feed-forward parts: the dense SwiGLU (also shared experts) and the mixture-of-experts layer. One
// object of each serves all layers of a model; owner thread only.
#pragma once

#include <vector>

#include "worker/model/config/model_config.h"
#include "worker/model/layers/layer_context.h"

namespace choir {

class DenseFfn {
 public:
  static StatusOr<DenseFfn> Make(Device* device, Compute compute, int64_t rows_max,
                                 int64_t width_max);
  // residual += down(silu(gate(normed)) · up(normed)). Rows > 0.
  void Forward(const FfnWeights& w, const KernelSet& kernels, const StepContext& step,
               TensorView normed, TensorView residual) const;

 private:
  DenseFfn() = default;
  Compute compute_ = Compute::kF32;
  DeviceBuffer gate_, up_;
};

class MoeFfn {
 public:
  // rows_max: own rows of a step; received_max: rows that local experts may get in one layer.
  static StatusOr<MoeFfn> Make(Device* device, const ModelConfig& config, Compute compute,
                               int64_t rows_max, int64_t received_max);

  // residual += the chosen experts' weighted outputs + the shared experts'. All ranks of the epoch
  // call it together, those without rows too. Errors come from the exchange.
  Status Forward(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                 const StepContext& step, TensorView normed, TensorView residual);

  const ExpertCounts& counts() const { return counts_; }

 private:
  MoeFfn() = default;
  void Gate(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
            TensorView normed) const;
  Status RunExperts(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                    const DispatchedRows& rows);
  void Count(size_t moe_layer, const DispatchedRows& rows);
  TensorView ExpertIds(int64_t rows) const;

  MoeConfig config_;
  int64_t hidden_ = 0;
  Compute compute_ = Compute::kF32;
  ScratchRows logits_, weights_, expert_out_, expert_scratch_, returned_;
  DeviceBuffer expert_ids_;
  ExpertCounts counts_;
};

}  // namespace choir
