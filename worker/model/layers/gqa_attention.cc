#include "worker/model/layers/gqa_attention.h"

namespace choir {

StatusOr<GqaAttention> GqaAttention::Make(Device* device, const ModelConfig& config,
                                          Compute compute, RopeTables tables, int64_t rows_max) {
  GqaAttention a;
  a.config_ = *config.gqa;
  a.rope_ = config.rope;
  a.tables_ = tables;
  a.norm_eps_ = config.norm_eps;
  a.scale_ = config.softmax_scale;
  a.compute_ = compute;
  const int64_t q = a.config_.heads * a.config_.head_dim,
                kv = a.config_.kv_heads * a.config_.head_dim;
  CHOIR_ASSIGN_OR_RETURN(a.q_, ScratchRows::Make(device, rows_max, q));
  CHOIR_ASSIGN_OR_RETURN(a.k_, ScratchRows::Make(device, rows_max, kv));
  CHOIR_ASSIGN_OR_RETURN(a.v_, ScratchRows::Make(device, rows_max, kv));
  CHOIR_ASSIGN_OR_RETURN(a.out_, ScratchRows::Make(device, rows_max, q));
  return a;
}

void GqaAttention::NormHeads(const KernelSet& kernels, const StepContext& step, TensorView norm,
                             TensorView x, int64_t heads) const {
  if (norm.empty()) return;
  const TensorView rows = Offset(x, 0, {step.rows * heads, config_.head_dim});
  kernels.RmsNorm({.x = rows, .w = norm, .y = rows, .eps = norm_eps_}, step.stream);
}

void GqaAttention::RotateHeads(const KernelSet& kernels, const StepContext& step, TensorView x,
                               int64_t heads) const {
  kernels.Rope({.x = x,
                .num_tokens = step.rows,
                .num_heads = heads,
                .token_stride = heads * config_.head_dim,
                .head_stride = config_.head_dim,
                .rotary_dim = rope_.rotary_dim,
                .interleaved = rope_.interleaved,
                .cos = tables_.cos,
                .sin = tables_.sin,
                .positions = step.inputs.positions},
               step.stream);
}

void GqaAttention::Forward(const GqaLayer& layer, const KernelSet& kernels, const StepContext& step,
                           const ProductInput& normed, TensorView residual) const {
  const GqaWeights& w = layer.weights;
  const TensorView q = q_.View(step.rows), k = k_.View(step.rows), v = v_.View(step.rows);
  const LinearArgs products[] = {LinearOf(compute_, w.q, normed, q),
                                 LinearOf(compute_, w.k, normed, k),
                                 LinearOf(compute_, w.v, normed, v)};
  kernels.MergedLinear({products}, step.stream);
  NormHeads(kernels, step, w.q_norm, q, config_.heads);
  NormHeads(kernels, step, w.k_norm, k, config_.kv_heads);
  RotateHeads(kernels, step, q, config_.heads);
  RotateHeads(kernels, step, k, config_.kv_heads);
  kernels.StoreKv({.x = k, .kv = layer.kv.k, .slots = step.inputs.slots}, step.stream);
  kernels.StoreKv({.x = v, .kv = layer.kv.v, .slots = step.inputs.slots}, step.stream);
  kernels.PagedAttention({.q = q_.Heads(step.rows, config_.heads),
                          .k = layer.kv.k,
                          .v = layer.kv.v,
                          .out = out_.Heads(step.rows, config_.heads),
                          .sequences = step.inputs.sequences,
                          .keys_max = step.keys_max,
                          .kv_heads = config_.kv_heads,
                          .scale = scale_,
                          .window = layer.window,
                          .sinks = w.sinks},
                         step.stream);
  RunLinear(kernels, step.stream, compute_, w.o, {out_.View(step.rows), {}}, residual, true);
}

}  // namespace choir
