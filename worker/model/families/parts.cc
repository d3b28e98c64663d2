// Parts of config.json that several families read alike.
#include <algorithm>
#include <cmath>

#include "worker/model/families/family.h"

namespace choir {

void ReadCommon(ConfigReader* r, double default_eps, ModelConfig* c) {
  c->vocab = r->Int({"vocab_size"}, 1, kVocabMax);
  c->hidden = r->Int({"hidden_size"}, 1, kHiddenMax);
  c->layers = r->Int({"num_hidden_layers"}, 1, kLayersMax);
  c->norm_eps = static_cast<float>(r->Real({"rms_norm_eps"}, 0, 1, default_eps));
  c->tied_head = r->Bool({"tie_word_embeddings"}, false);
  r->OneOf("hidden_act", {"silu"}, "use a model with this activation");
  c->quant = ReadQuantization(r);
  r->Absent("attn_logit_softcapping", "use a model without it");
  r->Absent("final_logit_softcapping", "use a model without it");
}

void ReadGqa(ConfigReader* r, const GqaDefaults& defaults, ModelConfig* c) {
  GqaConfig gqa;
  gqa.heads = r->Int({"num_attention_heads"}, 1, kHeadsMax);
  gqa.kv_heads = r->Int({"num_key_value_heads"}, 1, kHeadsMax,
                        defaults.kv_heads > 0 ? defaults.kv_heads : gqa.heads);
  int64_t head_dim = defaults.head_dim;
  if (head_dim == 0) {
    r->Check(r->Has("head_dim") || c->hidden % gqa.heads == 0, "num_attention_heads",
             fmt::format("{} does not divide hidden_size {} and there is no head_dim", gqa.heads,
                         c->hidden));
    head_dim = std::max<int64_t>(c->hidden / gqa.heads, 1);
  }
  gqa.head_dim = r->Int({"head_dim"}, 1, kHeadsMax, head_dim);
  r->Check(gqa.heads % gqa.kv_heads == 0, "num_key_value_heads",
           fmt::format("{} does not divide num_attention_heads {}", gqa.kv_heads, gqa.heads));
  const RopeDefaults rope{
      .partial = defaults.partial, .theta = defaults.theta, .scaling = defaults.rope_scaling};
  c->rope = ReadRope(r, gqa.head_dim, c->positions_max, rope);
  r->Check(!r->status().ok() || defaults.partial < 1 || c->rope.rotary_dim == gqa.head_dim,
           "partial_rotary_factor", "must be 1 for this family");
  c->softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(gqa.head_dim)));
  c->gqa = gqa;
}

// Files may hold one even where the key, meant for running them, says 0.
int64_t ReadPredictionLayers(ConfigReader* r) {
  return r->Int({"num_nextn_predict_layers", "num_mtp_layers"}, 0, 64, 1);
}

// Sizes that the gate's arithmetic relies on.
void CheckGate(ConfigReader* r, const MoeConfig& m) {
  if (!r->status().ok()) return;
  r->Check(m.top_k <= m.experts, "num_experts_per_tok",
           fmt::format("{} is more than the {} experts", m.top_k, m.experts));
  r->Check(m.experts % m.num_groups == 0, "n_group",
           fmt::format("{} does not divide the {} experts", m.num_groups, m.experts));
  r->Check(m.groups_kept <= m.num_groups, "topk_group",
           fmt::format("{} is more than n_group {}", m.groups_kept, m.num_groups));
  const int64_t per_group = m.experts / m.num_groups;
  r->Check(m.groups_kept * per_group >= m.top_k, "topk_group",
           fmt::format("{} groups of {} experts are fewer than num_experts_per_tok {}",
                       m.groups_kept, per_group, m.top_k));
  r->Check(m.num_groups == 1 || m.group_score == GroupScore::kBest || per_group >= 2, "n_group",
           "groups need at least two experts each");
}

std::vector<bool> ReadDenseFirst(ConfigReader* r, int64_t fallback, int64_t layers) {
  const int64_t dense = r->Int({"first_k_dense_replace"}, 0, kLayersMax, fallback);
  r->Check(dense <= layers, "first_k_dense_replace",
           fmt::format("{} is more than num_hidden_layers {}", dense, layers));
  std::vector<bool> moe(static_cast<size_t>(layers), true);
  std::fill_n(moe.begin(), std::min(dense, layers), false);
  return moe;
}

std::vector<int64_t> ReadLayerTypes(ConfigReader* r, int64_t window, int64_t first_sliding,
                                    int64_t layers) {
  std::vector<int64_t> windows(static_cast<size_t>(layers), 0);
  if (!r->Has("layer_types")) {
    for (int64_t l = first_sliding; l < layers; ++l) windows[static_cast<size_t>(l)] = window;
    return windows;
  }
  const std::vector<std::string> types = r->Texts("layer_types");
  r->Check(types.size() == windows.size(), "layer_types",
           fmt::format("has {} entries, but num_hidden_layers is {}", types.size(), layers));
  for (size_t l = 0; l < std::min(types.size(), windows.size()); ++l) {
    if (types[l] == "full_attention") continue;
    r->Check(types[l] == "sliding_attention", "layer_types",
             fmt::format("'{}' is not supported (known: full_attention, sliding_attention)",
                         types[l].substr(0, 64)));
    r->Check(window > 0, "layer_types",
             "has sliding_attention, but no sliding window is set: give sliding_window, and "
             "use_sliding_window where the family has it");
    windows[l] = window;
  }
  return windows;
}

void RefuseWindow(ConfigReader* r) {
  r->Absent("sliding_window", "use a model with full attention");
}

}  // namespace choir
