#include "worker/model/families/family.h"

namespace choir {

const WeightNames kGlm4MoeNames = {
    .k = "model.layers.{layer}.self_attn.k_proj",
    .v = "model.layers.{layer}.self_attn.v_proj",
    .q_norm = "model.layers.{layer}.self_attn.q_norm",
    .k_norm = "model.layers.{layer}.self_attn.k_norm",
    .gate = "model.layers.{layer}.mlp.gate_proj",
    .up = "model.layers.{layer}.mlp.up_proj",
    .down = "model.layers.{layer}.mlp.down_proj",
    .router = "model.layers.{layer}.mlp.gate",
    .correction_bias = "model.layers.{layer}.mlp.gate.e_score_correction_bias",
    .expert_gate = "model.layers.{layer}.mlp.experts.{expert}.gate_proj",
    .expert_up = "model.layers.{layer}.mlp.experts.{expert}.up_proj",
    .expert_down = "model.layers.{layer}.mlp.experts.{expert}.down_proj",
    .shared_gate = "model.layers.{layer}.mlp.shared_experts.gate_proj",
    .shared_up = "model.layers.{layer}.mlp.shared_experts.up_proj",
    .shared_down = "model.layers.{layer}.mlp.shared_experts.down_proj",
};

}  // namespace choir
