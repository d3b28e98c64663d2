// deepseek_v2 and deepseek_v3: latent attention (MLA) with interleaved rope on a shared key part;
// after some dense layers, mixture-of-experts layers. The two differ in the gate.
#include <cmath>

#include "worker/model/families/family.h"

namespace choir {
namespace {

void ReadAttention(ConfigReader* r, int64_t default_q_lora, ModelConfig* c) {
  MlaConfig a;
  a.heads = r->Int({"num_attention_heads"}, 1, kHeadsMax);
  // A null q_lora_rank means one matrix; only an absent key has the family's default.
  a.q_lora = r->Int({"q_lora_rank"}, 1, kHiddenMax, r->IsNull("q_lora_rank") ? 0 : default_q_lora);
  a.kv_lora = r->Int({"kv_lora_rank"}, 1, kHiddenMax, 512);
  a.nope = r->Int({"qk_nope_head_dim"}, 1, kHeadsMax, 128);
  a.rope = r->Int({"qk_rope_head_dim"}, 2, kHeadsMax, 64);
  a.v_dim = r->Int({"v_head_dim"}, 1, kHeadsMax, 128);
  a.bias = r->Bool({"attention_bias"}, false);
  const int64_t kv_heads = r->Int({"num_key_value_heads"}, 1, kHeadsMax, a.heads);
  r->Check(
      kv_heads == a.heads, "num_key_value_heads",
      fmt::format("{} must be num_attention_heads {} for latent attention", kv_heads, a.heads));
  r->Check(a.rope % 2 == 0, "qk_rope_head_dim", fmt::format("{} is not even", a.rope));
  c->rope = ReadRope(r, a.rope, c->positions_max, {});
  r->Check(!r->status().ok() || c->rope.rotary_dim == a.rope, "partial_rotary_factor",
           "must be 1 for this family");
  c->rope.interleaved = true;
  c->softmax_scale = static_cast<float>(std::pow(static_cast<double>(a.nope + a.rope), -0.5) *
                                        c->rope.SoftmaxFactor());
  c->mla = a;
}

void ReadExperts(ConfigReader* r, MoeConfig* m) {
  m->width = r->Int({"moe_intermediate_size"}, 1, kWidthMax);
  m->experts = r->Int({"n_routed_experts", "num_local_experts", "num_experts"}, 1, kExpertsMax);
  m->top_k = r->Int({"num_experts_per_tok"}, 1, kTopKMax);
  m->shared_width = m->width * r->Int({"n_shared_experts"}, 0, kTopKMax, 0);
  const int64_t every = r->Int({"moe_layer_freq"}, 1, kLayersMax, 1);
  r->Check(every == 1, "moe_layer_freq", fmt::format("{} is not supported (known: 1)", every));
}

}  // namespace

void ReadDeepseekV2(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  RefuseWindow(r);
  c->dense_width = r->Int({"intermediate_size"}, 1, kWidthMax, 11008);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 2048);
  c->ffn_bias = r->Bool({"mlp_bias"}, false);
  ReadAttention(r, 1536, c);
  MoeConfig m;
  ReadExperts(r, &m);
  m.layers = ReadDenseFirst(r, 0, c->layers);
  m.score = GateScore::kSoftmax;
  r->OneOf("scoring_func", {"softmax"}, "use a published deepseek_v2");
  r->OneOf("topk_method", {"greedy", "group_limited_greedy"}, "use a published deepseek_v2");
  if (r->Text({"topk_method"}, "greedy") == "group_limited_greedy") {
    m.group_score = GroupScore::kBest;
    m.masked_score_is_zero = true;
    m.num_groups = static_cast<int32_t>(r->Int({"n_group"}, 1, kExpertsMax));
    m.groups_kept = static_cast<int32_t>(r->Int({"topk_group"}, 1, kExpertsMax));
  }
  // norm_topk_prob is not read: the published family ignores it.
  m.scaling = static_cast<float>(r->Real({"routed_scaling_factor"}, 0, 1e6, 1.0));
  CheckGate(r, m);
  c->moe = m;
}

void ReadDeepseekV3(ConfigReader* r, ModelConfig* c) {
  ReadCommon(r, 1e-6, c);
  RefuseWindow(r);
  c->dense_width = r->Int({"intermediate_size"}, 1, kWidthMax, 18432);
  c->positions_max = r->Int({"max_position_embeddings"}, 1, kPositionsMax, 4096);
  c->prediction_layers_max = ReadPredictionLayers(r);
  ReadAttention(r, 1536, c);
  c->rope.interleaved = r->Bool({"rope_interleave"}, true);
  MoeConfig m;
  ReadExperts(r, &m);
  m.layers = ReadDenseFirst(r, 3, c->layers);
  m.correction_bias = true;
  m.score = GateScore::kSigmoid;
  m.group_score = GroupScore::kSumOfBestTwo;
  m.num_groups = static_cast<int32_t>(r->Int({"n_group"}, 1, kExpertsMax, 8));
  m.groups_kept = static_cast<int32_t>(r->Int({"topk_group"}, 1, kExpertsMax, 4));
  m.normalize = r->Bool({"norm_topk_prob"}, true);
  m.scaling = static_cast<float>(r->Real({"routed_scaling_factor"}, 0, 1e6, 2.5));
  r->OneOf("scoring_func", {"sigmoid"}, "use a published deepseek_v3");
  r->OneOf("topk_method", {"noaux_tc"}, "use a published deepseek_v3");
  CheckGate(r, m);
  c->moe = m;
}

}  // namespace choir
