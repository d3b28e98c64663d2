#include "worker/model/families/family.h"

namespace choir {

const WeightNames kGptOssNames = {
    .k = "model.layers.{layer}.self_attn.k_proj",
    .v = "model.layers.{layer}.self_attn.v_proj",
    .q_norm = "model.layers.{layer}.self_attn.q_norm",  // never used: another family's are refused
    .k_norm = "model.layers.{layer}.self_attn.k_norm",
    .router = "model.layers.{layer}.mlp.router",
    .stacked_gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj",
    .stacked_down = "model.layers.{layer}.mlp.experts.down_proj",
    .sinks = "model.layers.{layer}.self_attn.sinks",
};

}  // namespace choir
