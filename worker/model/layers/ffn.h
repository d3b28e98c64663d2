// Feed-forward parts: the dense SwiGLU (also shared experts) and the mixture-of-experts layer. One
// object of each serves all layers of a model; owner thread only.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "worker/model/config/model_config.h"
#include "worker/model/layers/host_ffn.h"
#include "worker/model/layers/layer_context.h"
#include "worker/model/layers/resident_experts.h"
#include "worker/model/layers/slot_experts.h"

namespace choir {

class DenseFfn {
 public:
  static StatusOr<DenseFfn> Make(Device* device, Compute compute, int64_t rows_max,
                                 int64_t width_max);
  // residual += down(silu(gate(normed)) · up(normed)). Rows > 0.
  void Forward(const FfnWeights& w, const KernelSet& kernels, const StepContext& step,
               const ProductInput& normed, TensorView residual) const;

 private:
  DenseFfn() = default;
  Compute compute_ = Compute::kF32;
  DeviceBuffer gate_, up_;
};

class MoeFfn {
 public:
  static StatusOr<MoeFfn> Make(Device* device, const ModelConfig& config, Compute compute,
                               const ModelLimits& limits);
  // From now on `kernels`, the host's, compute the experts that the device has no room for.
  Status UseHost(Device* device, const KernelSet* kernels, const ModelLimits& limits);

  // Before a step: what the device has to know of the experts of this rank, and does not yet.
  void Prepare(const PlacedExperts& experts);
  // residual += the chosen experts' weighted outputs + the shared experts'. All ranks of the epoch
  // call it together, those without rows too. Errors come from the exchange.
  Status Forward(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                 const StepContext& step, const ProductInput& normed, TensorView residual);
  // The same in three parts, where there is an exchange: rows may travel between them, and other
  // micro-batches run theirs. `normed` stays as it is from the first to the last.
  Status SendRows(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                  TensorView normed);
  Status RunRows(const MoeWeights& w, const KernelSet& kernels, const StepContext& step);
  Status SumOutputs(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                    const StepContext& step, TensorView normed, TensorView residual);
  // Weights of Forward's first product with `normed`, if it takes rounded rows; else empty.
  TensorView FirstProduct(const MoeWeights& w, const StepContext& step) const;

  // After the last layer of a step.
  void Finish();

  bool resident() const { return resident_.has_value(); }  // no exchange, and no wait for the host
  const ExpertCounts& counts() const;

 private:
  MoeFfn() = default;
  void Gate(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
            TensorView normed) const;
  // What experts get of `normed`: packed as f8 where the model runs so.
  TensorView ExpertRows(const KernelSet& kernels, const StepContext& step, TensorView normed) const;
  bool TakeRounded(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                   const RoundedRows& rounded) const;
  void RunAllHere(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                  const ProductInput& normed, TensorView residual);
  // With all ranks' rows in slots: nothing that the host would have to know, either.
  Status RunInSlots(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                    const StepContext& step, SlotExchange* exchange, const ProductInput& normed,
                    TensorView residual);
  Status RunExperts(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                    const DispatchedRows& rows);
  void Count(size_t moe_layer, const DispatchedRows& rows);
  Staged<ExpertWeights> Experts(const StepContext& step) const;
  // Both products of this rank's experts for the rows that were brought to them.
  ExpertFfnArgs FfnOf(const MoeWeights& w, const StepContext& step, const TensorView& rows,
                      const Staged<int32_t>& offsets) const;
  DType Payload() const;  // of rows on their way to experts
  TensorView ExpertIds(const StepContext& step) const;
  TensorView Returned(const StepContext& step) const;  // a row for each choice

  MoeConfig config_;
  int64_t hidden_ = 0;
  Compute compute_ = Compute::kF32;
  ScratchRows logits_, weights_, expert_out_, expert_scratch_, returned_;
  DeviceBuffer expert_ids_;
  StagedBuffer expert_table_;  // [layers, slots] ExpertWeights, where the device cannot read ours
  size_t expert_slots_ = 0;
  uint64_t placement_ = 0;  // PlacedExperts::serial of the table
  std::optional<ResidentExperts> resident_;
  std::optional<SlotExperts> slots_;
  ScratchRows packed_;           // own rows as F8Rows; empty: experts get them as they are
  mutable ExpertCounts counts_;  // also of slots_, taken when somebody asks
  std::optional<HostFfn> host_;
};

}  // namespace choir
