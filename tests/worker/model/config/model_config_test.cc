// config.json: what is refused, and what the dialects and defaults mean.
#include "worker/model/config/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/model_dir.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

void ExpectRefused(const std::string& golden, const std::string& key, const json& value) {
  const ModelDir dir(golden);
  dir.SetConfig(key, value);
  const auto config = ReadModelConfig(dir.path());
  ASSERT_FALSE(config.ok()) << golden << " " << key << " " << value;
  EXPECT_THAT(MessageOf(config.status()), HasSubstr(dir.File("config.json")));
  EXPECT_THAT(MessageOf(config.status()), HasSubstr(key));
}

ModelConfig Accept(const ModelDir& dir) {
  auto config = ReadModelConfig(dir.path());
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

TEST(ModelConfig, RefusesValuesOutOfRange) {
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "intermediate_size", "head_dim", "max_position_embeddings"}) {
    for (const json& value : {json(0), json(-1), json(1.5), json("8"), json(true),
                              json(uint64_t{1} << 63), json(json::array())}) {
      ExpectRefused("tiny_llama", key, value);
    }
  }
  ExpectRefused("tiny_llama", "rms_norm_eps", "small");
  ExpectRefused("tiny_llama", "rms_norm_eps", -1e-5);
  ExpectRefused("tiny_llama", "tie_word_embeddings", 1);
}

TEST(ModelConfig, NamesAMissingKey) {
  const ModelDir dir("tiny_llama");
  dir.EditJson("config.json", [](json& config) { config.erase("hidden_size"); });
  EXPECT_THAT(MessageOf(ReadModelConfig(dir.path()).status()),
              HasSubstr("hidden_size: is missing"));
}

TEST(ModelConfig, RefusesWhatIsNotImplementedByKeyAndValue) {
  ExpectRefused("tiny_llama", "model_type", "gpt2");
  ExpectRefused("tiny_llama", "model_type", nullptr);
  ExpectRefused("tiny_llama", "architectures", {"LlamaForSequenceClassification"});
  ExpectRefused("tiny_llama", "hidden_act", "gelu");
  ExpectRefused("tiny_llama", "quantization_config", {{"quant_method", "fp8"}});
  ExpectRefused("tiny_llama", "sliding_window", 4096);
  ExpectRefused("deepseek_v3_yarn", "scoring_func", "softmax");
  ExpectRefused("deepseek_v3_yarn", "topk_method", "greedy");
  ExpectRefused("deepseek_v3_yarn", "moe_layer_freq", 2);
  ExpectRefused("deepseek_v2_lite", "topk_method", "noaux_tc");
  ExpectRefused("deepseek_v2_lite", "scoring_func", "sigmoid");
}

TEST(ModelConfig, RefusesSizesThatContradictEachOther) {
  ExpectRefused("tiny_llama", "num_key_value_heads", 4);      // of 9 heads
  ExpectRefused("tiny_glm4_moe", "n_group", 3);               // of 10 experts
  ExpectRefused("tiny_glm4_moe", "topk_group", 6);            // of 5 groups
  ExpectRefused("tiny_glm4_moe", "topk_group", 1);            // 2 experts for top-4
  ExpectRefused("tiny_glm4_moe", "num_experts_per_tok", 11);  // of 10 experts
  ExpectRefused("tiny_glm4_moe", "first_k_dense_replace", 99);
  ExpectRefused("tiny_glm4_moe", "partial_rotary_factor", 0.01);
  ExpectRefused("deepseek_v3_yarn", "num_key_value_heads", 1);
  ExpectRefused("deepseek_v3_yarn", "qk_rope_head_dim", 7);
}

TEST(ModelConfig, RefusesGroupsOfOneExpertWhoseBestTwoCount) {
  const ModelDir dir("tiny_glm4_moe");
  dir.SetConfig("n_group", 10);
  dir.SetConfig("topk_group", 10);
  EXPECT_THAT(MessageOf(ReadModelConfig(dir.path()).status()), HasSubstr("n_group: groups need"));
}

TEST(ModelConfig, RefusesUnknownAndIncompleteRope) {
  const auto refuse = [](const json& rope, const std::string& field) {
    const ModelDir dir("tiny_llama");
    dir.EditJson("config.json", [&](json& config) {
      config.erase("rope_parameters");
      config["rope_scaling"] = rope;
    });
    EXPECT_THAT(MessageOf(ReadModelConfig(dir.path()).status()), HasSubstr(field)) << rope;
  };
  refuse({{"rope_type", "longrope"}},
         "'longrope' is not supported (known: default, dynamic, linear, llama3, yarn)");
  refuse({{"full_attention", {{"rope_type", "default"}}}}, "full_attention");
  refuse({{"rope_type", "linear"}}, "factor");
  refuse({{"rope_type", "linear"}, {"factor", 0}}, "factor");
  refuse({{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 4.0},
          {"high_freq_factor", 1.0}},
         "high_freq_factor");
  refuse({{"rope_type", "yarn"}, {"factor", "x"}}, "factor");
  refuse(json::array({1}), "rope_scaling");
}

TEST(ModelConfig, ReadsBothRopeDialectsAlike) {
  const ModelDir old_dialect("tiny_llama"), new_dialect("tiny_llama");
  const json scaling = {{"factor", 4.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 64}};
  old_dialect.EditJson("config.json", [&](json& config) {
    config.erase("rope_parameters");
    config["rope_theta"] = 5000.0;
    config["rope_scaling"] = scaling;
    config["rope_scaling"]["type"] = "llama3";
  });
  new_dialect.EditJson("config.json", [&](json& config) {
    config.erase("rope_theta");
    config.erase("rope_scaling");
    config["rope_parameters"] = scaling;
    config["rope_parameters"]["rope_type"] = "llama3";
    config["rope_parameters"]["rope_theta"] = 5000.0;
  });
  const ModelConfig a = Accept(old_dialect), b = Accept(new_dialect);
  EXPECT_EQ(a.rope.type, RopeConfig::Type::kLlama3);
  EXPECT_EQ(RopeFrequencies(a.rope), RopeFrequencies(b.rope));
}

TEST(ModelConfig, AcceptsNamesOfExpertsOverTheYears) {
  for (const char* key : {"num_local_experts", "num_experts"}) {
    const ModelDir dir("deepseek_v3_yarn");
    dir.EditJson("config.json", [&](json& config) {
      config[key] = config["n_routed_experts"];
      config.erase("n_routed_experts");
    });
    EXPECT_EQ(Accept(dir).moe->experts, Accept(ModelDir("deepseek_v3_yarn")).moe->experts) << key;
  }
}

TEST(ModelConfig, GenerationConfigWinsForEosIds) {
  const ModelDir dir("tiny_llama");
  dir.SetConfig("eos_token_id", 3);
  dir.Write("generation_config.json", R"({"eos_token_id": [5, 6, 1000000]})");
  EXPECT_THAT(Accept(dir).eos_ids, ElementsAre(5, 6));
  dir.Write("generation_config.json", "{}");
  EXPECT_THAT(Accept(dir).eos_ids, ElementsAre(3));
  dir.Remove("generation_config.json");
  EXPECT_THAT(Accept(dir).eos_ids, ElementsAre(3));
  dir.Write("generation_config.json", R"({"eos_token_id": "x"})");
  EXPECT_THAT(MessageOf(ReadModelConfig(dir.path()).status()), HasSubstr("eos_token_id"));
}

}  // namespace
}  // namespace choir
