// Rows of experts of a rank in a group, in steps of so few rows that all ranks have those of all
// (slot_exchange.h): kernels find this rank's, order them by expert, count them and put the outputs
// where their owners get them, so the host never learns who chose what. One object serves all
// layers of a model; owner thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/model/config/model_config.h"
#include "worker/model/layers/layer_context.h"
#include "worker/model/layers/resident_experts.h"
#include "worker/model/slot_exchange.h"

namespace choir {

class SlotExperts {
 public:
  // Of steps of up to limits.slot_output_rows rows a rank. num_layers: with experts.
  static StatusOr<SlotExperts> Make(Device* device, const ModelConfig& config,
                                    const ModelLimits& limits, size_t num_layers);

  // Before a step, the device waited for: brings a placement that is new to the device. What was
  // counted under the one before goes into `counts`.
  void Prepare(const PlacedExperts& experts, ExpertCounts* counts);
  // The rows that this rank's experts compute, of all ranks; x and expert_ids are its own.
  // `payload`: as ExpertExchange::Dispatch has it.
  StatusOr<ResidentRows> Order(const KernelSet& kernels, const StepContext& step,
                               SlotExchange* exchange, TensorView x, TensorView expert_ids,
                               DType payload) const;
  // residual += the weighted outputs of the chosen experts. expert_out: [rows.x, hidden] f32.
  Status Sum(const KernelSet& kernels, const StepContext& step, SlotExchange* exchange,
             const ResidentRows& rows, TensorView expert_out, TensorView weights,
             TensorView residual) const;
  // Enqueues; TakeCounts has them once the device was waited for.
  void DownloadCounts() const;
  void TakeCounts(ExpertCounts* counts) const;

 private:
  SlotExperts() = default;
  int32_t* TableOf(size_t moe_layer) const;

  int64_t hidden_ = 0, top_k_ = 0, experts_ = 0, expert_slots_ = 0, copies_max_ = 0;
  DeviceBuffer grouped_, slot_of_, row_of_, own_row_of_, offsets_;
  // [layers] of: copies [experts + 1], their ranks, their slots [copies_max]
  StagedBuffer tables_;
  StagedBuffer counted_;                    // [layers, expert_slots] i64
  mutable std::vector<int64_t> taken_;      // of it
  std::vector<std::vector<int32_t>> here_;  // by layer: experts of this rank by slot
  uint64_t placement_ = 0;                  // PlacedExperts::serial of the tables
};

}  // namespace choir
