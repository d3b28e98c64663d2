// glm4_moe: grouped-query attention with rope over a part of each head, optional norms and biases
// on q and k; after some dense layers, mixture-of-experts layers gated as deepseek_v3's.
#include "worker/model/families/family.h"

namespace choir {
namespace {

MoeConfig ReadMoe(ConfigReader* r, int64_t layers) {
  MoeConfig m;
  m.experts = r->Int({"n_routed_experts", "num_local_experts", "num_experts"}, 1, kExpertsMax, 128);
  m.top_k = r->Int({"num_experts_per_tok"}, 1, kTopKMax, 8);
  m.width = r->Int({"moe_intermediate_size"}, 1, kWidthMax, 1408);
  m.shared_width = m.width * r->Int({"n_shared_experts"}, 0, kTopKMax, 1);
  m.layers = ReadDenseFirst(r, 1, layers);
  m.correction_bias = true;
  m.score = GateScore::kSigmoid;
  m.group_score = GroupScore::kSumOfBestTwo;
  m.num_groups = static_cast<int32_t>(r->Int({"n_group"}, 1, kExpertsMax, 1));
  m.groups_kept = static_cast<int32_t>(r->Int({"topk_group"}, 1, kExpertsMax, 1));
  m.normalize = r->Bool({"norm_topk_prob"}, true);
  m.scaling = static_cast<float>(r->Real({"routed_scaling_factor"}, 0, 1e6, 1.0));
  r->OneOf("scoring_func", {"sigmoid"}, "use a published glm4_moe");
  r->OneOf("topk_method", {"noaux_tc"}, "use a published glm4_moe");
  CheckGate(r, m);
  return m;
}

}  // namespace

void ReadGlm4Moe(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-5, c);
  RefuseWindow(r);
  c->dense_width = r->Int({"intermediate_size"}, 1, kWidthMax, 10944);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 131072);
  c->prediction_layers_max = ReadPredictionLayers(r);
  ReadGqa(r, {.kv_heads = 8, .partial = 0.5}, c);
  c->gqa->qkv_bias = r->Bool({"attention_bias"}, false);
  c->gqa->qk_norm = r->Bool({"use_qk_norm"}, false);
  c->moe = ReadMoe(r, c->layers);
}

}  // namespace choir
