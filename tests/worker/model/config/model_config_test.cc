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
  ExpectRefused("tiny_llama", "quantization_config", {{"quant_method", "awq"}});
  ExpectRefused("tiny_llama", "sliding_window", 4096);
  ExpectRefused("deepseek_v3_yarn", "scoring_func", "softmax");
  ExpectRefused("deepseek_v3_yarn", "topk_method", "greedy");
  ExpectRefused("deepseek_v3_yarn", "moe_layer_freq", 2);
  ExpectRefused("deepseek_v2_lite", "topk_method", "noaux_tc");
  ExpectRefused("deepseek_v2_lite", "scoring_func", "sigmoid");
}

TEST(ModelConfig, RefusesMoreExpertsThanTheGateTakes) {
  ExpectRefused("qwen3_moe_sparse", "num_experts", kGateExpertsMax + 1);
  ExpectRefused("mixtral_window", "num_local_experts", kGateExpertsMax + 1);
  ExpectRefused("deepseek_v3_yarn", "n_routed_experts", kGateExpertsMax + 5);
  ExpectRefused("gpt_oss_mxfp4", "num_local_experts", kGateExpertsMax + 1);
  const ModelDir dir("mixtral_window");
  dir.SetConfig("num_local_experts", kGateExpertsMax);
  EXPECT_EQ(Accept(dir).moe->experts, kGateExpertsMax);
}

TEST(ModelConfig, KimiK2IsDeepseekV3UnderAnotherName) {
  const ModelDir dir("deepseek_v3_yarn");
  const ModelConfig want = Accept(dir);
  dir.SetConfig("model_type", "kimi_k2");
  const ModelConfig got = Accept(dir);
  EXPECT_EQ(got.family, "kimi_k2");
  EXPECT_EQ(got.mla->kv_lora, want.mla->kv_lora);
  EXPECT_EQ(got.moe->num_groups, want.moe->num_groups);
  EXPECT_EQ(got.moe->score, GateScore::kSigmoid);
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
  refuse({{"rope_type", "dynamic"}}, "factor");
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
  const std::vector<std::pair<std::string, std::string>> published = {
      {"deepseek_v3_yarn", "n_routed_experts"},
      {"qwen3_moe_sparse", "num_experts"},
      {"qwen3_moe_window", "num_local_experts"},
      {"mixtral_window", "num_local_experts"}};
  for (const auto& [golden, name] : published) {
    for (const char* key : {"num_local_experts", "num_experts"}) {
      const ModelDir dir(golden);
      dir.EditJson("config.json", [&name = name, key](json& config) {
        const json experts = config[name];
        config.erase(name);
        config[key] = experts;
      });
      EXPECT_EQ(Accept(dir).moe->experts, Accept(ModelDir(golden)).moe->experts) << golden << key;
    }
  }
}

TEST(ModelConfig, QwenSlidesBehindASwitch) {
  EXPECT_THAT(Accept(ModelDir("qwen2_sliding")).windows, ElementsAre(0, 0, 9, 9));
  EXPECT_THAT(Accept(ModelDir("qwen2_layer_types")).windows, ElementsAre(17, 0, 17));
  EXPECT_THAT(Accept(ModelDir("qwen3_moe_window")).windows, ElementsAre(13, 13, 13));
  const ModelDir off("qwen2_sliding"), none("qwen2_sliding");
  off.SetConfig("use_sliding_window", false);
  none.SetConfig("sliding_window", nullptr);
  for (const ModelDir* dir : {&off, &none}) {
    EXPECT_THAT(Accept(*dir).windows, ElementsAre(0, 0, 0, 0));
  }
}

TEST(ModelConfig, MixtralSlidesInEveryLayerOrInNone) {
  EXPECT_THAT(Accept(ModelDir("mixtral_window")).windows, ElementsAre(21, 21, 21));
  EXPECT_THAT(Accept(ModelDir("mixtral_wide")).windows, ElementsAre(0, 0, 0));
}

TEST(ModelConfig, RefusesWindowsAndLayerTypesThatCannotBe) {
  ExpectRefused("mixtral_window", "sliding_window", 0);
  ExpectRefused("qwen3_moe_window", "sliding_window", -1);
  ExpectRefused("qwen2_layer_types", "use_sliding_window", "yes");
  for (const json& types :
       {json("full_attention"), json({"full_attention"}), json({"full_attention", 1, 2}),
        json({"full_attention", "full_attention", "chunked_attention"})}) {
    ExpectRefused("qwen2_layer_types", "layer_types", types);
  }
  const ModelDir dir("qwen2_layer_types");
  dir.SetConfig("use_sliding_window", false);
  EXPECT_THAT(MessageOf(ReadModelConfig(dir.path()).status()),
              HasSubstr("layer_types: has sliding_attention, but no sliding window is set"));
}

TEST(ModelConfig, QwenMoeChoosesItsDenseLayers) {
  EXPECT_THAT(Accept(ModelDir("qwen3_moe_sparse")).moe->layers,
              ElementsAre(false, true, false, true));
  EXPECT_THAT(Accept(ModelDir("qwen3_moe_window")).moe->layers, ElementsAre(true, false, true));
  const ModelDir dir("qwen3_moe_sparse");
  dir.SetConfig("mlp_only_layers", {0, 3, 9});
  EXPECT_THAT(Accept(dir).moe->layers, ElementsAre(false, true, false, false));
  ExpectRefused("qwen3_moe_sparse", "mlp_only_layers", {-1});
  ExpectRefused("qwen3_moe_sparse", "mlp_only_layers", 3);
  ExpectRefused("qwen3_moe_sparse", "decoder_sparse_step", 0);
}

TEST(ModelConfig, AbsentKeysHaveTheFamilysDefaults) {
  const ModelDir theta("mixtral_window"), head("qwen3_yarn");
  theta.SetConfig("rope_theta", nullptr);
  EXPECT_EQ(Accept(theta).rope.theta, 1e6);
  head.SetConfig("head_dim", nullptr);
  EXPECT_EQ(Accept(head).gqa->head_dim, 128);
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
