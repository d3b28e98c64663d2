#include "worker/model/families/family.h"

namespace choir {

const WeightNames kMixtralNames = {
    .k = "model.layers.{layer}.self_attn.k_proj",
    .v = "model.layers.{layer}.self_attn.v_proj",
    .q_norm = "model.layers.{layer}.self_attn.q_norm",  // never used: another family's are refused
    .k_norm = "model.layers.{layer}.self_attn.k_norm",
    .router = "model.layers.{layer}.block_sparse_moe.gate",
    .expert_gate = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1",
    .expert_up = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3",
    .expert_down = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2",
};

}  // namespace choir
