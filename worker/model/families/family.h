// A model family: one file reads its config and so wires its layers, one holds its weight names. A
// new family is these two files and a row in families.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/config/config_reader.h"
#include "worker/model/config/model_config.h"

namespace choir {

// Patterns over {layer} and {expert}; matrices get ".weight" and ".bias". Empty: the family lacks
// it. What is given here is the same in all families so far.
struct WeightNames {
  std::string_view embedding = "model.embed_tokens.weight";  // these three: complete names
  std::string_view final_norm = "model.norm.weight";
  std::string_view head = "lm_head.weight";
  std::string_view attention_norm = "model.layers.{layer}.input_layernorm";
  std::string_view ffn_norm = "model.layers.{layer}.post_attention_layernorm";
  std::string_view q = "model.layers.{layer}.self_attn.q_proj";  // GQA, MLA without q_lora
  std::string_view o = "model.layers.{layer}.self_attn.o_proj";
  std::string_view k, v;                                       // GQA
  std::string_view q_norm, k_norm;                             // GQA with norms
  std::string_view q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b;  // MLA
  std::string_view gate, up, down;                             // dense FFN
  std::string_view router, correction_bias;                    // correction_bias: a complete name
  std::string_view expert_gate, expert_up, expert_down;
  std::string_view shared_gate, shared_up, shared_down;
  // All experts of a layer in one tensor: gate and up fused, with biases; as published by gpt_oss.
  std::string_view stacked_gate_up, stacked_down;
  std::string_view sinks;  // a complete name
};

struct Family {
  std::string_view model_type;    // as in config.json
  std::string_view architecture;  // as in config.json's architectures
  const WeightNames* names;
  void (*read)(ConfigReader* reader, ModelConfig* config);
};

std::span<const Family> Families();
const Family* FindFamily(std::string_view model_type);

// The largest sizes that a config may give: larger ones are damage. The product of any three fits
// an int64_t.
inline constexpr int64_t kVocabMax = int64_t{1} << 24;
inline constexpr int64_t kHiddenMax = int64_t{1} << 20;  // and ranks of latents
inline constexpr int64_t kWidthMax = int64_t{1} << 22;   // of feed-forward layers and experts
inline constexpr int64_t kLayersMax = 4096;
inline constexpr int64_t kHeadsMax = 65536;  // and sizes of heads
inline constexpr int64_t kExpertsMax = kGateExpertsMax;
inline constexpr int64_t kTopKMax = 1024;
inline constexpr int64_t kPositionsMax = int64_t{1} << 30;

// Parts that several families read alike (parts.cc). A default counts when the key is absent.
struct GqaDefaults {
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden_size / heads
  double theta = 10000;
  double partial = 1;               // of a head that rotates; where it is 1, configs may not differ
  const char* rope_scaling = "{}";  // RopeDefaults::scaling
};
void ReadCommon(ConfigReader* reader, double default_eps, ModelConfig* config);
// Heads, their rope and the softmax scale. REQUIRES: positions_max and hidden are read.
void ReadGqa(ConfigReader* reader, const GqaDefaults& defaults, ModelConfig* config);
int64_t ReadPredictionLayers(ConfigReader* reader);
void CheckGate(ConfigReader* reader, const MoeConfig& moe);
// first_k_dense_replace: how many layers are dense before all others have experts.
std::vector<bool> ReadDenseFirst(ConfigReader* reader, int64_t fallback, int64_t layers);
// layer_types where given, else window for layers from `first_sliding` on. window 0: there is none.
std::vector<int64_t> ReadLayerTypes(ConfigReader* reader, int64_t window, int64_t first_sliding,
                                    int64_t layers);
void RefuseWindow(ConfigReader* reader);

// Replaces {layer} and {expert}.
std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert = 0);

extern const WeightNames kLlamaNames, kDeepseekNames, kGlm4MoeNames, kGptOssNames, kMixtralNames,
    kQwenNames;
void ReadLlama(ConfigReader* reader, ModelConfig* config);
void ReadDeepseekV2(ConfigReader* reader, ModelConfig* config);
void ReadDeepseekV3(ConfigReader* reader, ModelConfig* config);
void ReadGlm4Moe(ConfigReader* reader, ModelConfig* config);
void ReadGptOss(ConfigReader* reader, ModelConfig* config);
void ReadMixtral(ConfigReader* reader, ModelConfig* config);
void ReadQwen2(ConfigReader* reader, ModelConfig* config);
void ReadQwen3(ConfigReader* reader, ModelConfig* config);
void ReadQwen3Moe(ConfigReader* reader, ModelConfig* config);

}  // namespace choir
