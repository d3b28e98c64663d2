#include "worker/model/families/family.h"

namespace choir {
namespace {

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", &kLlamaNames, ReadLlama},
    {"deepseek_v2", "DeepseekV2ForCausalLM", &kDeepseekNames, ReadDeepseekV2},
    {"deepseek_v3", "DeepseekV3ForCausalLM", &kDeepseekNames, ReadDeepseekV3},
    {"glm4_moe", "Glm4MoeForCausalLM", &kGlm4MoeNames, ReadGlm4Moe},
    {"gpt_oss", "GptOssForCausalLM", &kGptOssNames, ReadGptOss},
    {"kimi_k2", "DeepseekV3ForCausalLM", &kDeepseekNames, ReadDeepseekV3},
    {"mixtral", "MixtralForCausalLM", &kMixtralNames, ReadMixtral},
    {"qwen2", "Qwen2ForCausalLM", &kLlamaNames, ReadQwen2},
    {"qwen3", "Qwen3ForCausalLM", &kQwenNames, ReadQwen3},
    {"qwen3_moe", "Qwen3MoeForCausalLM", &kQwenNames, ReadQwen3Moe},
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

std::string TensorName(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string name(pattern);
  ReplaceAll(&name, "{layer}", layer);
  ReplaceAll(&name, "{expert}", expert);
  return name;
}

}  // namespace choir
