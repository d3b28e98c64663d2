#include "tools/model/random_config.h"

#include <algorithm>
#include <numeric>

#include "common/config/options.h"
#include "worker/model/families/family.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

constexpr ShapeOption kShapeOptions[] = {
    {"--hidden", "hidden_size", "width of the residual stream"},
    {"--layers", "num_hidden_layers", "layers"},
    {"--heads", "num_attention_heads", "attention heads"},
    {"--kv-heads", "num_key_value_heads", "key-value heads"},
    {"--head-dim", "head_dim", "size of a head"},
    {"--ffn", "intermediate_size",
     "neurons of a dense layer, or of an expert of mixtral and gpt_oss"},
    {"--moe-ffn", "moe_intermediate_size", "neurons of an expert"},
    {"--experts", "n_routed_experts", "routed experts", {"num_experts", "num_local_experts"}},
    {"--top-k", "num_experts_per_tok", "experts of a token"},
    {"--shared-experts", "n_shared_experts", "shared experts"},
    {"--dense-layers", "first_k_dense_replace", "dense layers before the first MoE layer"},
    {"--groups", "n_group", "expert groups"},
    {"--topk-groups", "topk_group", "groups that a token may use"},
    {"--q-lora", "q_lora_rank", "rank of the query latent; 0: none"},
    {"--kv-lora", "kv_lora_rank", "rank of the key-value latent"},
    {"--nope-dim", "qk_nope_head_dim", "columns of a head without rotation"},
    {"--rope-dim", "qk_rope_head_dim", "columns of a head with rotation"},
    {"--v-dim", "v_head_dim", "size of a value head"},
    {"--vocab", "vocab_size", "tokens"},
    {"--context", "max_position_embeddings", "positions"},
};

Json Parse(const char* text) { return Json::parse(text); }

// Shapes that are small enough to be made at once and large enough to have groups and shared
// experts.
Json FamilyDefault(const std::string& family) {
  Json common = Parse(R"({"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "rope_scaling": null, "tie_word_embeddings": false, "attention_bias": false})");
  const Json moe = Parse(R"({"moe_intermediate_size": 128, "n_routed_experts": 16,
    "n_shared_experts": 1, "num_experts_per_tok": 4, "first_k_dense_replace": 1, "n_group": 4,
    "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": true})");
  const Json mla = Parse(R"({"num_key_value_heads": 4, "q_lora_rank": null, "kv_lora_rank": 64,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32})");
  const Json window = Parse(R"({"use_sliding_window": false, "sliding_window": 4096,
    "max_window_layers": 4})");
  if (family == "llama") {
    common["mlp_bias"] = false;
    return common;
  }
  if (family == "mixtral") {
    common.erase("attention_bias");
    common.update(Parse(R"({"num_local_experts": 8, "num_experts_per_tok": 2,
      "sliding_window": null})"));
    return common;
  }
  if (family == "gpt_oss") {
    common["attention_bias"] = true;
    common.update(Parse(R"({"intermediate_size": 128, "num_local_experts": 16,
      "num_experts_per_tok": 4, "sliding_window": 128, "swiglu_limit": 7.0,
      "rope_theta": 150000,
      "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": false, "original_max_position_embeddings": 4096}})"));
    return common;
  }
  if (family.starts_with("qwen")) {
    common.update(window);
    if (family == "qwen2") common.erase("attention_bias");
    if (family != "qwen3_moe") return common;
    common.update(Parse(R"({"moe_intermediate_size": 128, "num_experts": 16,
      "num_experts_per_tok": 4, "norm_topk_prob": true, "decoder_sparse_step": 1,
      "mlp_only_layers": []})"));
    return common;
  }
  common.update(moe);
  if (family == "glm4_moe") {
    common.update(Parse(R"({"partial_rotary_factor": 0.5, "use_qk_norm": true,
      "num_nextn_predict_layers": 0})"));
    return common;
  }
  common.erase("head_dim");
  common.update(mla);
  if (family == "deepseek_v3") {
    common.update(Parse(R"({"q_lora_rank": 96, "topk_method": "noaux_tc",
      "scoring_func": "sigmoid", "num_nextn_predict_layers": 0})"));
  } else {
    common.update(Parse(R"({"topk_method": "group_limited_greedy", "scoring_func": "softmax",
      "norm_topk_prob": false, "routed_scaling_factor": 1.0})"));
  }
  return common;
}

struct Like {
  const char* name;
  const char* family;
  const char* config;  // merged into the family's default
};

// Numbers of the published config.json files.
constexpr Like kLikes[] = {
    {"deepseek-v2-lite", "deepseek_v2",
     R"({"vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
         "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
         "num_key_value_heads": 16, "q_lora_rank": null, "kv_lora_rank": 512,
         "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
         "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "n_group": 1,
         "topk_group": 1, "topk_method": "greedy", "first_k_dense_replace": 1,
         "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-06, "max_position_embeddings": 163840,
         "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
           "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096}})"},
    {"deepseek-v3", "deepseek_v3",
     R"({"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
         "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
         "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
         "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
         "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8,
         "topk_group": 4, "first_k_dense_replace": 3, "routed_scaling_factor": 2.5,
         "rms_norm_eps": 1e-06, "max_position_embeddings": 163840,
         "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
           "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}})"},
    {"glm-4.5-air", "glm4_moe",
     R"({"vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944,
         "moe_intermediate_size": 1408, "num_hidden_layers": 46, "num_attention_heads": 96,
         "num_key_value_heads": 8, "head_dim": 128, "n_routed_experts": 128,
         "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1,
         "first_k_dense_replace": 1, "routed_scaling_factor": 1.0, "use_qk_norm": false,
         "attention_bias": true, "rope_theta": 1000000, "max_position_embeddings": 131072})"},
    {"gpt-oss-20b", "gpt_oss",
     R"({"vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880,
         "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8,
         "head_dim": 64, "num_local_experts": 32, "max_position_embeddings": 131072})"},
    {"gpt-oss-120b", "gpt_oss",
     R"({"vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880,
         "num_hidden_layers": 36, "num_attention_heads": 64, "num_key_value_heads": 8,
         "head_dim": 64, "num_local_experts": 128, "max_position_embeddings": 131072})"},
    {"llama-3.2-1b", "llama",
     R"({"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
         "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
         "head_dim": 64, "tie_word_embeddings": true, "rope_theta": 500000.0,
         "max_position_embeddings": 131072,
         "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})"},
    {"mixtral-8x7b", "mixtral",
     R"({"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "head_dim": 128, "num_local_experts": 8, "num_experts_per_tok": 2,
         "rope_theta": 1000000.0, "max_position_embeddings": 32768})"},
    {"qwen2.5-0.5b", "qwen2",
     R"({"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
         "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
         "tie_word_embeddings": true, "rope_theta": 1000000.0, "rms_norm_eps": 1e-06,
         "sliding_window": 32768, "max_window_layers": 21, "max_position_embeddings": 32768})"},
    {"qwen3-0.6b", "qwen3",
     R"({"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
         "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 128, "tie_word_embeddings": true, "rope_theta": 1000000.0,
         "rms_norm_eps": 1e-06, "sliding_window": null, "max_window_layers": 28,
         "max_position_embeddings": 40960})"},
    {"qwen3-30b-a3b", "qwen3_moe",
     R"({"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
         "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
         "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
         "num_experts_per_tok": 8, "norm_topk_prob": true, "rope_theta": 1000000.0,
         "rms_norm_eps": 1e-06, "sliding_window": null, "max_window_layers": 48,
         "max_position_embeddings": 40960})"},
};

// Empty: the family has no such number.
std::string KeyIn(const Json& config, const ShapeOption& option) {
  for (const auto& [key, value] : config.items()) {
    if (option.Is(key)) return key;
  }
  return "";
}

// Keeps what was not given in step with what was.
void Adapt(const std::map<std::string, int64_t>& given, Json* config) {
  const auto free = [&](const char* key) { return config->contains(key) && !given.contains(key); };
  const auto number = [&](const char* key) { return (*config)[key].get<int64_t>(); };
  if (free("num_key_value_heads") && given.contains("num_attention_heads")) {
    const int64_t heads = number("num_attention_heads");
    const bool mla = config->contains("kv_lora_rank");
    (*config)["num_key_value_heads"] = mla ? heads : std::gcd(heads, number("num_key_value_heads"));
  }
  if (free("first_k_dense_replace")) {
    (*config)["first_k_dense_replace"] =
        std::min(number("first_k_dense_replace"), number("num_hidden_layers") - 1);
  }
  if (free("n_group") && number("n_routed_experts") % number("n_group") != 0) {
    (*config)["n_group"] = 1;
    if (free("topk_group")) (*config)["topk_group"] = 1;
  }
}

// As published.
Json Quantization(const std::string& dtype) {
  return Parse(dtype == "fp8" ? R"({"activation_scheme": "dynamic", "fmt": "e4m3",
    "quant_method": "fp8", "weight_block_size": [128, 128]})"
                              : R"({"modules_to_not_convert": ["model.layers.*.self_attn",
    "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"})");
}

// Rotated columns are pairs, and a family may rotate only a part of the head.
Status CheckHeadDim(const Json& config) {
  if (!config.contains("head_dim")) return {};
  const double partial = config.value("partial_rotary_factor", 1.0);
  const int64_t head_dim = config["head_dim"];
  const auto rotated = static_cast<int64_t>(static_cast<double>(head_dim) * partial);
  if (rotated > 0 && rotated % 2 == 0) return {};
  return InvalidArgument("--head-dim {}: must be a multiple of {:g}", head_dim, 2 / partial);
}

}  // namespace

bool ShapeOption::Is(std::string_view name) const {
  return name == key || (!name.empty() &&
                         std::find(other_keys.begin(), other_keys.end(), name) != other_keys.end());
}

std::span<const ShapeOption> ShapeOptions() { return kShapeOptions; }

std::vector<std::string> RandomFamilies() {
  return {"llama",   "glm4_moe", "deepseek_v2", "deepseek_v3", "gpt_oss",
          "mixtral", "qwen2",    "qwen3",       "qwen3_moe"};
}

std::vector<std::string> RandomDTypes() { return {"bf16", "f32", "f16", "fp8", "mxfp4"}; }

std::vector<std::string> LikeNames() {
  std::vector<std::string> names;
  for (const Like& like : kLikes) names.emplace_back(like.name);
  return names;
}

StatusOr<Json> MakeRandomConfig(const RandomConfigRequest& request) {
  std::string family = request.family;
  const Like* like = nullptr;
  for (const Like& l : kLikes) {
    if (request.like == l.name) like = &l;
  }
  if (like == nullptr && !request.like.empty()) {
    return InvalidArgument("--like {}: unknown{} (known: {})", request.like,
                           NearestHint(request.like, LikeNames()), fmt::join(LikeNames(), ", "));
  }
  if (like != nullptr && family.empty()) family = like->family;
  if (like != nullptr && family != like->family) {
    return InvalidArgument("--like {} is of family {}, not {}", request.like, like->family, family);
  }
  const std::vector<std::string> families = RandomFamilies();
  if (std::find(families.begin(), families.end(), family) == families.end()) {
    return InvalidArgument("--family '{}': unknown{} (known: {})", family,
                           NearestHint(family, families), fmt::join(families, ", "));
  }
  Json config = FamilyDefault(family);
  if (like != nullptr) config.update(Parse(like->config));
  for (const ShapeOption& option : kShapeOptions) {
    const auto it = request.overrides.find(option.key);
    if (it == request.overrides.end()) continue;
    const std::string key = KeyIn(config, option);
    if (key.empty()) {
      return InvalidArgument("{}: family {} has no {}", option.flag, family, option.key);
    }
    const bool none = it->second == 0 && key == "q_lora_rank";
    config[key] = none ? Json() : Json(it->second);
  }
  Adapt(request.overrides, &config);
  CHOIR_RETURN_IF_ERROR(CheckHeadDim(config));
  Json out = {{"architectures", Json::array({FindFamily(family)->architecture})},
              {"model_type", family}};
  out["torch_dtype"] = request.dtype == "f32"   ? "float32"
                       : request.dtype == "f16" ? "float16"
                                                : "bfloat16";
  out.update(config);
  if (request.dtype == "mxfp4" && family != "gpt_oss") {
    return InvalidArgument("--dtype mxfp4: only the experts of gpt_oss have this format");
  }
  if (request.dtype == "fp8" && family == "gpt_oss") {
    return InvalidArgument("--dtype fp8: gpt_oss is published in bf16 and mxfp4");
  }
  if (request.dtype == "fp8" || request.dtype == "mxfp4") {
    out["quantization_config"] = Quantization(request.dtype);
  }
  out.update(Parse(R"({"hidden_act": "silu", "attention_dropout": 0.0, "use_cache": true,
    "bos_token_id": 0, "eos_token_id": 1})"));
  return out;
}

}  // namespace choir
