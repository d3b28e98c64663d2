#include <algorithm>

#include "worker/model/families/family.h"

namespace choir {
namespace {

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", &kLlamaNames, ReadLlama},
    {"deepseek_v2", "DeepseekV2ForCausalLM", &kDeepseekNames, ReadDeepseekV2},
    {"deepseek_v3", "DeepseekV3ForCausalLM", &kDeepseekNames, ReadDeepseekV3},
    {"glm4_moe", "Glm4MoeForCausalLM", &kGlm4MoeNames, ReadGlm4Moe},
};

void ReplaceAll(std::string* text, std::string_view what, int64_t number) {
  const std::string digits = std::to_string(number);
  for (size_t at = text->find(what); at != std::string::npos; at = text->find(what, at)) {
    text->replace(at, what.size(), digits);
  }
}

}  // namespace

std::span<const Family> Families() { return kFamilies; }

const Family* FindFamily(std::string_view model_type) {
  for (const Family& f : kFamilies) {
    if (f.model_type == model_type) return &f;
  }
  return nullptr;
}

void ReadCommon(ConfigReader* r, double default_eps, ModelConfig* c) {
  c->vocab = r->Int({"vocab_size"}, 1, int64_t{1} << 24);
  c->hidden = r->Int({"hidden_size"}, 1, int64_t{1} << 20);
  c->layers = r->Int({"num_hidden_layers"}, 1, 4096);
  c->norm_eps = static_cast<float>(r->Real({"rms_norm_eps"}, 0, 1, default_eps));
  c->tied_head = r->Bool({"tie_word_embeddings"}, false);
  r->OneOf("hidden_act", {"silu"}, "use a model with this activation");
  r->Absent("quantization_config", "use the bf16 or f32 weights of this model");
  r->Absent("sliding_window", "use a model with full attention");
  r->Absent("attn_logit_softcapping", "use a model without it");
  r->Absent("final_logit_softcapping", "use a model without it");
}

// Files may hold one even where the key, meant for running them, says 0.
int64_t ReadPredictionLayers(ConfigReader* r) {
  return std::max<int64_t>(r->Int({"num_nextn_predict_layers", "num_mtp_layers"}, 0, 64, 1), 1);
}

// Sizes that the gate's arithmetic relies on.
void CheckGate(ConfigReader* r, const MoeConfig& m, int64_t layers) {
  if (!r->status().ok()) return;
  r->Check(m.first_layer <= layers, "first_k_dense_replace",
           fmt::format("{} is more than num_hidden_layers {}", m.first_layer, layers));
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

std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string name(pattern);
  ReplaceAll(&name, "{layer}", layer);
  ReplaceAll(&name, "{expert}", expert);
  return name;
}

}  // namespace choir
