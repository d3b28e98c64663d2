#include "worker/model/families/family.h"

namespace choir {

const WeightNames kLlamaNames = {
    .k = "model.layers.{layer}.self_attn.k_proj",
    .v = "model.layers.{layer}.self_attn.v_proj",
    .q_norm = "model.layers.{layer}.self_attn.q_norm",  // never used: another family's are refused
    .k_norm = "model.layers.{layer}.self_attn.k_norm",
    .gate = "model.layers.{layer}.mlp.gate_proj",
    .up = "model.layers.{layer}.mlp.up_proj",
    .down = "model.layers.{layer}.mlp.down_proj",
};

}  // namespace choir
