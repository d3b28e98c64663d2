// A model family: one file reads its config and so wires its layers, one holds its weight names. A
// new family is these two files and a row in families.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "worker/model/config/config_reader.h"
#include "worker/model/config/model_config.h"

namespace choir {

// Patterns over {layer} and {expert}; matrices get ".weight" and ".bias". Empty: the family lacks
// it.
struct WeightNames {
  std::string_view embedding, final_norm, head;  // complete names
  std::string_view attention_norm, ffn_norm;
  std::string_view q, k, v, o;                                 // GQA; o is MLA's too
  std::string_view q_norm, k_norm;                             // GQA with norms
  std::string_view q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b;  // MLA; q when there is no q_lora
  std::string_view gate, up, down;                             // dense FFN
  std::string_view router, correction_bias;                    // correction_bias: a complete name
  std::string_view expert_gate, expert_up, expert_down;
  std::string_view shared_gate, shared_up, shared_down;
};

struct Family {
  std::string_view model_type;    // as in config.json
  std::string_view architecture;  // as in config.json's architectures
  const WeightNames* names;
  void (*read)(ConfigReader* reader, ModelConfig* config);
};

std::span<const Family> Families();
const Family* FindFamily(std::string_view model_type);

// Parts that several families read alike.
void ReadCommon(ConfigReader* reader, double default_eps, ModelConfig* config);
int64_t ReadPredictionLayers(ConfigReader* reader);
void CheckGate(ConfigReader* reader, const MoeConfig& moe, int64_t layers);

// Replaces {layer} and {expert}.
std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert = 0);

extern const WeightNames kLlamaNames, kDeepseekNames, kGlm4MoeNames;
void ReadLlama(ConfigReader* reader, ModelConfig* config);
void ReadDeepseekV2(ConfigReader* reader, ModelConfig* config);
void ReadDeepseekV3(ConfigReader* reader, ModelConfig* config);
void ReadGlm4Moe(ConfigReader* reader, ModelConfig* config);

}  // namespace choir
