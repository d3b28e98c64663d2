#include "worker/model/layers/ffn.h"

#include <utility>

namespace choir {

StatusOr<DenseFfn> DenseFfn::Make(Device* device, Compute compute, int64_t rows_max,
                                  int64_t width_max) {
  DenseFfn f;
  f.compute_ = compute;
  const size_t bytes = static_cast<size_t>(rows_max * width_max) * sizeof(float);
  CHOIR_ASSIGN_OR_RETURN(f.gate_, device->Allocate(bytes));
  CHOIR_ASSIGN_OR_RETURN(f.up_, device->Allocate(bytes));
  return f;
}

void DenseFfn::Forward(const FfnWeights& w, const KernelSet& kernels, const StepContext& step,
                       TensorView normed, TensorView residual) const {
  const int64_t width = w.gate.w.dim(0);
  const TensorView gate(static_cast<void*>(gate_.data()), DType::kF32, {step.rows, width});
  const TensorView up(static_cast<void*>(up_.data()), DType::kF32, {step.rows, width});
  CHOIR_CHECK(gate.num_bytes() <= gate_.size());
  RunLinear(kernels, step.stream, compute_, w.gate, normed, gate);
  RunLinear(kernels, step.stream, compute_, w.up, normed, up);
  kernels.SwiGlu({.gate = gate, .up = up, .y = gate}, step.stream);
  RunLinear(kernels, step.stream, compute_, w.down, gate, residual, true);
}

StatusOr<MoeFfn> MoeFfn::Make(Device* device, const ModelConfig& config, Compute compute,
                              int64_t rows_max, int64_t received_max) {
  MoeFfn f;
  f.config_ = *config.moe;
  f.hidden_ = config.hidden;
  f.compute_ = compute;
  const int64_t top_k = f.config_.top_k;
  CHOIR_ASSIGN_OR_RETURN(f.logits_, ScratchRows::Make(device, rows_max, f.config_.experts));
  CHOIR_ASSIGN_OR_RETURN(f.weights_, ScratchRows::Make(device, rows_max, top_k));
  CHOIR_ASSIGN_OR_RETURN(f.expert_out_, ScratchRows::Make(device, received_max, config.hidden));
  CHOIR_ASSIGN_OR_RETURN(f.expert_scratch_,
                         ScratchRows::Make(device, received_max, f.config_.width));
  CHOIR_ASSIGN_OR_RETURN(f.returned_, ScratchRows::Make(device, rows_max * top_k, config.hidden));
  CHOIR_ASSIGN_OR_RETURN(f.expert_ids_,
                         device->Allocate(static_cast<size_t>(rows_max * top_k) * sizeof(int32_t)));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.IsMoe(layer)) f.counts_.layers.push_back(static_cast<int32_t>(layer));
  }
  f.counts_.num_experts = static_cast<int32_t>(f.config_.experts);
  f.counts_.rows.assign(f.counts_.layers.size() * static_cast<size_t>(f.config_.experts), 0);
  return f;
}

TensorView MoeFfn::ExpertIds(int64_t rows) const {
  return TensorView(static_cast<void*>(expert_ids_.data()), DType::kI32, {rows, config_.top_k});
}

void MoeFfn::Gate(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                  TensorView normed) const {
  const TensorView logits = logits_.View(step.rows);
  // FP32 whatever the model's dtype, as the families were trained.
  kernels.Linear({.x = normed,
                  .w = w.router,
                  .w_scale = {},
                  .bias = w.router_bias,
                  .y = logits,
                  .compute = Compute::kF32},
                 step.stream);
  kernels.GateTopK({.logits = logits,
                    .bias = w.correction_bias,
                    .score = config_.score,
                    .num_groups = config_.num_groups,
                    .groups_kept = config_.groups_kept,
                    .group_score = config_.group_score,
                    .masked_score_is_zero = config_.masked_score_is_zero,
                    .normalize = config_.normalize,
                    .scaling = config_.scaling,
                    .expert_ids = ExpertIds(step.rows),
                    .weights = weights_.View(step.rows)},
                   step.stream);
}

Status MoeFfn::RunExperts(const MoeWeights& w, const KernelSet& kernels, const StepContext& step,
                          const DispatchedRows& rows) {
  const std::vector<ExpertWeights>& experts = step.batch.experts->weights[step.moe_layer];
  CHOIR_CHECK(experts.size() == rows.experts.size());
  Count(step.moe_layer, rows);
  const int64_t received = rows.offsets.back();
  if (received == 0) return {};
  kernels.ExpertFfn({.x = rows.x,
                     .offsets = rows.offsets,
                     .experts = experts,
                     .y = expert_out_.View(received),
                     .scratch = expert_scratch_.View(received),
                     .compute = compute_,
                     .glu = config_.glu,
                     .input_major = w.input_major},
                    step.stream);
  return {};
}

Status MoeFfn::Forward(const MoeWeights& w, const DenseFfn& shared, const KernelSet& kernels,
                       const StepContext& step, TensorView normed, TensorView residual) {
  CHOIR_CHECK(step.exchange != nullptr);
  if (step.rows > 0) Gate(w, kernels, step, normed);
  const DType payload = compute_ == Compute::kBF16 ? DType::kBF16 : DType::kF32;
  CHOIR_ASSIGN_OR_RETURN(const DispatchedRows rows,
                         step.exchange->Dispatch(step.batch.experts->layers[step.moe_layer], normed,
                                                 ExpertIds(step.rows), payload));
  CHOIR_RETURN_IF_ERROR(RunExperts(w, kernels, step, rows));
  const TensorView returned = returned_.View(step.rows * config_.top_k);
  CHOIR_RETURN_IF_ERROR(step.exchange->Combine(expert_out_.View(rows.offsets.back()), returned));
  if (step.rows == 0) return {};
  kernels.Combine({.y = returned, .weights = weights_.View(step.rows), .out = residual},
                  step.stream);
  if (w.shared) shared.Forward(*w.shared, kernels, step, normed, residual);
  return {};
}

void MoeFfn::Count(size_t moe_layer, const DispatchedRows& rows) {
  uint64_t* layer = counts_.rows.data() + moe_layer * static_cast<size_t>(counts_.num_experts);
  for (size_t i = 0; i < rows.experts.size(); ++i) {
    layer[rows.experts[i]] += static_cast<uint64_t>(rows.offsets[i + 1] - rows.offsets[i]);
  }
}

}  // namespace choir
