#include "worker/model/layers/mla_attention.h"

#include <algorithm>

namespace choir {
namespace {

// The published families norm their latents with this, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

}  // namespace

StatusOr<MlaAttention> MlaAttention::Make(Device* device, const ModelConfig& config,
                                          Compute compute, RopeTables tables, int64_t rows_max) {
  MlaAttention a;
  a.config_ = *config.mla;
  a.rope_ = config.rope;
  a.tables_ = tables;
  a.scale_ = config.softmax_scale;
  a.compute_ = compute;
  const MlaConfig& c = a.config_;
  CHOIR_ASSIGN_OR_RETURN(a.q_lora_,
                         ScratchRows::Make(device, rows_max, std::max<int64_t>(c.q_lora, 1)));
  CHOIR_ASSIGN_OR_RETURN(a.q_, ScratchRows::Make(device, rows_max, c.heads * (c.nope + c.rope)));
  CHOIR_ASSIGN_OR_RETURN(a.q_rope_, ScratchRows::Make(device, rows_max, c.heads * c.rope));
  CHOIR_ASSIGN_OR_RETURN(a.q_latent_, ScratchRows::Make(device, rows_max, c.heads * c.kv_lora));
  CHOIR_ASSIGN_OR_RETURN(a.latent_, ScratchRows::Make(device, rows_max, c.kv_lora + c.rope));
  CHOIR_ASSIGN_OR_RETURN(a.out_latent_, ScratchRows::Make(device, rows_max, c.heads * c.kv_lora));
  CHOIR_ASSIGN_OR_RETURN(a.out_, ScratchRows::Make(device, rows_max, c.heads * c.v_dim));
  return a;
}

// Fills q_ and latent_.
void MlaAttention::Project(const MlaWeights& w, const KernelSet& kernels, const StepContext& step,
                           const ProductInput& normed) const {
  const TensorView q = q_.View(step.rows);
  const LinearArgs latents = LinearOf(compute_, w.kv_a, normed, latent_.View(step.rows));
  if (config_.q_lora == 0) {
    const LinearArgs products[] = {LinearOf(compute_, w.q, normed, q), latents};
    kernels.MergedLinear({products}, step.stream);
    return;
  }
  const TensorView q_lora = q_lora_.View(step.rows);
  const LinearArgs products[] = {LinearOf(compute_, w.q_a, normed, q_lora), latents};
  kernels.MergedLinear({products}, step.stream);
  const RoundedRows rounded = RoundedFor(w.q.w, kernels, step, compute_);
  kernels.RmsNorm(
      {.x = q_lora, .w = w.q_a_norm, .y = q_lora, .eps = kLatentNormEps, .rounded = rounded},
      step.stream);
  RunLinear(kernels, step.stream, compute_, w.q, {q_lora, rounded}, q);
}

// Fills q_latent_ and q_rope_.
void MlaAttention::SplitQueries(const MlaWeights& w, const KernelSet& kernels,
                                const StepContext& step) const {
  const MlaConfig& c = config_;
  const int64_t head = c.nope + c.rope;
  const TensorView q = q_.View(step.rows);
  kernels.HeadProject({.x = Offset(q, 0, {step.rows, c.heads, c.nope}),
                       .x_token_stride = c.heads * head,
                       .x_head_stride = head,
                       .w = Offset(w.kv_b, 0, {c.nope, c.kv_lora}),
                       .w_head_stride = (c.nope + c.v_dim) * c.kv_lora,
                       .y = q_latent_.Heads(step.rows, c.heads),
                       .compute = compute_},
                      step.stream);
  kernels.Rope({.x = q,
                .y = q_rope_.Heads(step.rows, c.heads),
                .num_tokens = step.rows,
                .num_heads = c.heads,
                .token_stride = c.heads * head,
                .head_stride = head,
                .offset = c.nope,
                .rotary_dim = c.rope,
                .interleaved = rope_.interleaved,
                .cos = tables_.cos,
                .sin = tables_.sin,
                .positions = step.inputs.positions},
               step.stream);
}

void MlaAttention::Forward(const MlaWeights& w, const LayerKvView& kv, const KernelSet& kernels,
                           const StepContext& step, const ProductInput& normed,
                           TensorView residual) const {
  const MlaConfig& c = config_;
  Project(w, kernels, step, normed);
  SplitQueries(w, kernels, step);
  kernels.StoreLatent({.x = latent_.View(step.rows),
                       .norm = w.kv_a_norm,
                       .eps = kLatentNormEps,
                       .interleaved = rope_.interleaved,
                       .cos = tables_.cos,
                       .sin = tables_.sin,
                       .positions = step.inputs.positions,
                       .kv = kv.k,
                       .slots = step.inputs.slots},
                      step.stream);
  const TensorView out_latent = out_latent_.Heads(step.rows, c.heads);
  kernels.MlaAttention({.q_latent = q_latent_.Heads(step.rows, c.heads),
                        .q_rope = q_rope_.Heads(step.rows, c.heads),
                        .latent = kv.k,
                        .out = out_latent,
                        .sequences = step.inputs.sequences,
                        .keys_max = step.keys_max,
                        .scale = scale_},
                       step.stream);
  const RoundedRows rounded = RoundedFor(w.o.w, kernels, step, compute_);
  kernels.HeadProject({.x = out_latent,
                       .w = Offset(w.kv_b, c.nope * c.kv_lora, {c.v_dim, c.kv_lora}),
                       .w_head_stride = (c.nope + c.v_dim) * c.kv_lora,
                       .transpose = true,
                       .y = out_.Heads(step.rows, c.heads),
                       .compute = compute_,
                       .rounded = rounded},
                      step.stream);
  RunLinear(kernels, step.stream, compute_, w.o, {out_.View(step.rows), rounded}, residual, true);
}

}  // namespace choir
