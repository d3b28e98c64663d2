#include "worker/model/families/family.h"

namespace choir {

// qwen3 and qwen3_moe; qwen2 has llama's names.
const WeightNames kQwenNames = {
    .k = "model.layers.{layer}.self_attn.k_proj",
    .v = "model.layers.{layer}.self_attn.v_proj",
    .q_norm = "model.layers.{layer}.self_attn.q_norm",
    .k_norm = "model.layers.{layer}.self_attn.k_norm",
    .gate = "model.layers.{layer}.mlp.gate_proj",
    .up = "model.layers.{layer}.mlp.up_proj",
    .down = "model.layers.{layer}.mlp.down_proj",
    .router = "model.layers.{layer}.mlp.gate",
    .expert_gate = "model.layers.{layer}.mlp.experts.{expert}.gate_proj",
    .expert_up = "model.layers.{layer}.mlp.experts.{expert}.up_proj",
    .expert_down = "model.layers.{layer}.mlp.experts.{expert}.down_proj",
};

}  // namespace choir
