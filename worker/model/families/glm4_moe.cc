// glm4_moe: grouped-query attention with rope over a part of each head, optional norms and biases
// on q and k; after some dense layers, mixture-of-experts layers gated as deepseek_v3's.
#include <cmath>

#include "worker/model/families/family.h"

namespace choir {
namespace {

MoeConfig ReadMoe(ConfigReader* r, int64_t layers) {
  MoeConfig m;
  m.experts = r->Int({"n_routed_experts", "num_local_experts", "num_experts"}, 1, 65536, 128);
  m.top_k = r->Int({"num_experts_per_tok"}, 1, 1024, 8);
  m.width = r->Int({"moe_intermediate_size"}, 1, int64_t{1} << 22, 1408);
  m.shared_width = m.width * r->Int({"n_shared_experts"}, 0, 1024, 1);
  m.first_layer = r->Int({"first_k_dense_replace"}, 0, 4096, 1);
  m.correction_bias = true;
  m.score = GateScore::kSigmoid;
  m.group_score = GroupScore::kSumOfBestTwo;
  m.num_groups = static_cast<int32_t>(r->Int({"n_group"}, 1, 65536, 1));
  m.groups_kept = static_cast<int32_t>(r->Int({"topk_group"}, 1, 65536, 1));
  m.normalize = r->Bool({"norm_topk_prob"}, true);
  m.scaling = static_cast<float>(r->Real({"routed_scaling_factor"}, 0, 1e6, 1.0));
  r->OneOf("scoring_func", {"sigmoid"}, "use a published glm4_moe");
  r->OneOf("topk_method", {"noaux_tc"}, "use a published glm4_moe");
  CheckGate(r, m, layers);
  return m;
}

}  // namespace

void ReadGlm4Moe(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-5, c);
  c->dense_width = r->Int({"intermediate_size"}, 1, int64_t{1} << 22, 10944);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, int64_t{1} << 30, 131072);
  c->prediction_layers_max = ReadPredictionLayers(r);
  GqaConfig gqa;
  gqa.heads = r->Int({"num_attention_heads"}, 1, 65536);
  gqa.kv_heads = r->Int({"num_key_value_heads"}, 1, 65536, 8);
  gqa.head_dim = r->Int({"head_dim"}, 1, 65536, std::max<int64_t>(c->hidden / gqa.heads, 1));
  r->Check(gqa.heads % gqa.kv_heads == 0, "num_key_value_heads",
           fmt::format("{} does not divide num_attention_heads {}", gqa.kv_heads, gqa.heads));
  gqa.qkv_bias = r->Bool({"attention_bias"}, false);
  gqa.qk_norm = r->Bool({"use_qk_norm"}, false);
  c->rope = ReadRope(r, gqa.head_dim, 0.5);
  c->softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(gqa.head_dim)));
  c->gqa = gqa;
  c->moe = ReadMoe(r, c->layers);
}

}  // namespace choir
