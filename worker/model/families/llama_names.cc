#include "worker/model/families/family.h"

namespace choir {

const WeightNames kLlamaNames = {
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .head = "lm_head.weight",
    .attention_norm = "model.layers.{layer}.input_layernorm",
    .ffn_norm = "model.layers.{layer}.post_attention_layernorm",
    .q = "model.layers.{layer}.self_attn.q_proj",
    .k = "model.layers.{layer}.self_attn.k_proj",
    .v = "model.layers.{layer}.self_attn.v_proj",
    .o = "model.layers.{layer}.self_attn.o_proj",
    .gate = "model.layers.{layer}.mlp.gate_proj",
    .up = "model.layers.{layer}.mlp.up_proj",
    .down = "model.layers.{layer}.mlp.down_proj",
};

}  // namespace choir
