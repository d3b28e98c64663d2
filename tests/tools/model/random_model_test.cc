#include "tools/model/random_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/tools/model/safetensors_reader.h"
#include "tools/model/byte_tokenizer.h"
#include "tools/model/model_info.h"
#include "tools/model/tensor_plan.h"
#include "worker/model/model.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class RandomModelTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "choir-random-test-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string Path(const std::string& name) const { return (root_ / name).string(); }
  RandomModelOptions Small(const std::string& name, const std::string& family) const {
    RandomModelOptions options;
    options.out = Path(name);
    options.config.family = family;
    options.config.overrides = {{"hidden_size", 36},
                                {"num_hidden_layers", 2},
                                {"intermediate_size", 50},
                                {"vocab_size", 270},
                                {"num_attention_heads", 3}};
    return options;
  }

  fs::path root_;
};

TEST_F(RandomModelTest, EveryFamilyIsADirectoryThatTheLoaderAccepts) {
  for (const std::string& family : RandomFamilies()) {
    const Status made = MakeRandomModel(Small(family, family));
    ASSERT_TRUE(made.ok()) << made;
    const auto info = DescribeModel(Path(family));
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ((*info)["family"], family);
    EXPECT_EQ((*info)["hidden"], 36);
    EXPECT_EQ((*info)["dtype"], "BF16");
    EXPECT_EQ((*info)["chat_template"], "tokenizer_config.json");
    int64_t elements = 0;
    for (const auto& [name, tensor] : ReadSafetensors(Path(family + "/model.safetensors"))) {
      elements += static_cast<int64_t>(tensor.values.size());
      for (const float v : tensor.values) ASSERT_TRUE(std::isfinite(v) && std::fabs(v) < 8) << name;
    }
    EXPECT_EQ((*info)["parameters"], elements);
  }
}

TEST_F(RandomModelTest, EveryFormatIsADirectoryThatLoads) {
  const struct {
    const char* dtype;
    const char* family;
    int64_t hidden;
    double bytes_per_parameter;
  } formats[] = {{"f32", "qwen3", 40, 4},
                 {"f16", "qwen3_moe", 40, 2},
                 {"fp8", "deepseek_v3", 1150, 1},
                 {"fp8", "mixtral", 1150, 1},
                 {"mxfp4", "gpt_oss", 1152, 0.53}};
  for (const auto& f : formats) {
    const std::string name = fmt::format("{}-{}", f.family, f.dtype);
    RandomModelOptions options = Small(name, f.family);
    options.config.dtype = f.dtype;
    options.config.overrides["hidden_size"] = f.hidden;
    options.config.overrides["intermediate_size"] = 512;
    ASSERT_TRUE(MakeRandomModel(options).ok()) << name;
    const auto info = DescribeModel(Path(name));
    ASSERT_TRUE(info.ok()) << info.status();
    const double bytes = (*info)["weight_bytes"];
    EXPECT_NEAR(bytes / (*info)["parameters"].get<double>(), f.bytes_per_parameter,
                f.bytes_per_parameter / 4)
        << name;
    const auto loaded = LoadModel({.model_dir = Path(name)}, *MakeReferenceKernels());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_LT(static_cast<double>((*loaded)->info().weight_bytes), 1.1 * bytes) << name;
    options.config.dtype = "bf16";
    options.out = Path(name + "-bf16");
    ASSERT_TRUE(MakeRandomModel(options).ok()) << name;
    EXPECT_EQ((*DescribeModel(options.out))["parameters"], (*info)["parameters"]) << name;
  }
}

TEST_F(RandomModelTest, InfoTellsTheFormat) {
  RandomModelOptions options = Small("a", "llama");
  options.config.dtype = "fp8";
  ASSERT_TRUE(MakeRandomModel(options).ok());
  EXPECT_THAT(FormatModelInfo(*DescribeModel(Path("a"))), HasSubstr("llama, BF16 and fp8"));
  options.config.dtype = "f16";
  options.out = Path("b");
  ASSERT_TRUE(MakeRandomModel(options).ok());
  const auto info = DescribeModel(Path("b"));
  EXPECT_EQ((*info)["dtype"], "F16");
  EXPECT_TRUE((*info)["quantization"].is_null());
}

TEST_F(RandomModelTest, RefusesAFormatThatAFamilyLacks) {
  RandomModelOptions options = Small("a", "llama");
  options.config.dtype = "mxfp4";
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--dtype mxfp4"));
  options = Small("a", "gpt_oss");
  options.config.dtype = "fp8";
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--dtype fp8"));
  options.config.dtype = "mxfp4";  // hidden size 36
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--hidden: hidden_size: 36"));
}

TEST_F(RandomModelTest, TheSameSeedGivesTheSameBytesAndAnotherSeedOthers) {
  RandomModelOptions options = Small("a", "deepseek_v3");
  ASSERT_TRUE(MakeRandomModel(options).ok());
  options.out = Path("b");
  ASSERT_TRUE(MakeRandomModel(options).ok());
  options.out = Path("c");
  options.seed = 2;
  ASSERT_TRUE(MakeRandomModel(options).ok());
  for (const char* file : {"config.json", "tokenizer.json", "tokenizer_config.json",
                           "generation_config.json", "model.safetensors"}) {
    EXPECT_EQ(ReadFileText(Path(std::string("a/") + file)),
              ReadFileText(Path(std::string("b/") + file)));
  }
  EXPECT_NE(ReadFileText(Path("a/model.safetensors")), ReadFileText(Path("c/model.safetensors")));
}

TEST_F(RandomModelTest, TheBytesNeverChange) {
  RandomModelOptions options = Small("a", "llama");
  options.config.dtype = "f32";
  ASSERT_TRUE(MakeRandomModel(options).ok());
  const auto tensors = ReadSafetensors(Path("a/model.safetensors"));
  const auto& q = tensors.at("model.layers.0.self_attn.q_proj.weight").values;
  EXPECT_THAT(std::vector<float>(q.begin(), q.begin() + 3),
              testing::ElementsAre(-0.22835809f, -0.284050405f, 0.114274926f));
}

TEST_F(RandomModelTest, ShardsHoldTheSameTensors) {
  RandomModelOptions options = Small("one", "glm4_moe");
  ASSERT_TRUE(MakeRandomModel(options).ok());
  options.out = Path("many");
  options.shard_bytes = 64 << 10;
  ASSERT_TRUE(MakeRandomModel(options).ok());
  const auto index = nlohmann::json::parse(ReadFileText(Path("many/model.safetensors.index.json")));
  std::map<std::string, ReadTensor> sharded;
  std::set<std::string> files;
  for (const auto& [name, file] : index["weight_map"].items()) files.insert(file);
  EXPECT_GT(files.size(), 3u);
  for (const std::string& file : files) sharded.merge(ReadSafetensors(Path("many/" + file)));
  const auto whole = ReadSafetensors(Path("one/model.safetensors"));
  ASSERT_EQ(sharded.size(), whole.size());
  for (const auto& [name, tensor] : whole)
    EXPECT_EQ(sharded.at(name).values, tensor.values) << name;
  EXPECT_TRUE(DescribeModel(Path("many")).ok());
}

TEST_F(RandomModelTest, WhatFollowsFromAnOptionIsAdapted) {
  RandomModelOptions options = Small("a", "glm4_moe");
  options.config.overrides["n_routed_experts"] = 10;  // the default 4 groups do not divide them
  options.config.overrides["num_hidden_layers"] = 1;
  ASSERT_TRUE(MakeRandomModel(options).ok());
  const auto info = DescribeModel(Path("a"));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ((*info)["expert_groups"], 1);
  EXPECT_EQ((*info)["kv_heads"], 1);  // 3 heads, and 2 key-value heads do not divide them
  EXPECT_EQ((*info)["moe_layers"], 1);
}

TEST_F(RandomModelTest, ExpertsAreCountedUnderEachFamilysKey) {
  for (const char* family : {"deepseek_v3", "qwen3_moe", "mixtral"}) {
    RandomModelOptions options = Small(family, family);
    options.config.overrides["n_routed_experts"] = 5;
    ASSERT_TRUE(MakeRandomModel(options).ok()) << family;
    EXPECT_EQ((*DescribeModel(Path(family)))["experts"], 5) << family;
    options.out = Path("b");
    options.config.overrides["n_routed_experts"] = 70000;
    EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--experts: ")) << family;
  }
}

TEST_F(RandomModelTest, InfoTellsTheWindow) {
  ASSERT_TRUE(MakeRandomModel(Small("a", "qwen2")).ok());
  EXPECT_FALSE((*DescribeModel(Path("a"))).contains("window"));
  auto config = nlohmann::json::parse(ReadFileText(Path("a/config.json")));
  config.update({{"use_sliding_window", true}, {"sliding_window", 77}, {"max_window_layers", 1}});
  std::ofstream(Path("a/config.json")) << config.dump();
  const auto info = DescribeModel(Path("a"));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ((*info)["window"], 77);
  EXPECT_EQ((*info)["window_layers"], 1);
  EXPECT_THAT(FormatModelInfo(*info), HasSubstr("window      77 tokens in 1 layers"));
}

TEST_F(RandomModelTest, RefusesWhatCannotBeByOptionName) {
  RandomModelOptions options = Small("a", "llama");
  options.config.overrides["n_routed_experts"] = 8;
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--experts"));
  EXPECT_THAT(MessageOf(MakeRandomModel(Small("a", "lama"))), HasSubstr("did you mean 'llama'"));
  options = Small("a", "glm4_moe");
  options.config.overrides["vocab_size"] = 100;
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--vocab 100"));
  options = Small("a", "glm4_moe");
  options.config.overrides["num_experts_per_tok"] = 17;
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("num_experts_per_tok"));
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--top-k: num_experts_per_tok"));
  options = Small("a", "glm4_moe");
  options.config.overrides["head_dim"] = 22;
  EXPECT_THAT(MessageOf(MakeRandomModel(options)),
              HasSubstr("--head-dim 22: must be a multiple of 4"));
  options = Small("a", "llama");
  options.config.overrides["head_dim"] = 13;
  EXPECT_THAT(MessageOf(MakeRandomModel(options)),
              HasSubstr("--head-dim 13: must be a multiple of 2"));
  options = Small("a", "");
  options.config.like = "gpt-7";
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("--like gpt-7"));
  EXPECT_TRUE(fs::is_empty(root_));  // and leaves nothing behind
}

// 12 million tensors: neither their names nor their plan may be made.
TEST_F(RandomModelTest, AConfigOfTooManyTensorsIsLeftEarly) {
  RandomModelOptions options = Small("a", "mixtral");
  ASSERT_TRUE(MakeRandomModel(options).ok());
  auto config = nlohmann::json::parse(ReadFileText(Path("a/config.json")));
  config.update({{"num_hidden_layers", 4096}, {"num_local_experts", 1000}});
  std::ofstream(Path("a/config.json")) << config.dump();
  EXPECT_THAT(MessageOf(DescribeModel(Path("a")).status()), HasSubstr("asks for [1000, 36]"));
  options.out = Path("b");
  options.config.overrides["num_hidden_layers"] = 4096;
  options.config.overrides["n_routed_experts"] = 1000;
  EXPECT_THAT(MessageOf(MakeRandomModel(options)), HasSubstr("more than 1048576 tensors"));
}

TEST_F(RandomModelTest, NeverOverwritesADirectory) {
  fs::create_directory(root_ / "mine");
  std::ofstream(root_ / "mine" / "file") << "x";
  EXPECT_EQ(MakeRandomModel(Small("mine", "llama")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(root_ / "mine" / "file"));
}

TEST_F(RandomModelTest, EveryPublishedShapeIsAccepted) {
  for (const std::string& like : LikeNames()) {
    RandomConfigRequest request;
    request.like = like;
    const auto json = MakeRandomConfig(request);
    ASSERT_TRUE(json.ok()) << json.status();
    std::ofstream(root_ / "config.json") << json->dump();
    const auto config = ReadModelConfig(root_.string());
    EXPECT_TRUE(config.ok()) << config.status();
  }
}

TEST_F(RandomModelTest, CountsThePublishedParameters) {
  const struct {
    const char* like;
    double total;
    double active;
  } published[] = {{"deepseek-v2-lite", 15.7e9, 2.4e9}, {"deepseek-v3", 671e9, 37e9},
                   {"glm-4.5-air", 106e9, 12e9},        {"llama-3.2-1b", 1.24e9, 1.24e9},
                   {"mixtral-8x7b", 46.7e9, 12.9e9},    {"qwen2.5-0.5b", 0.494e9, 0.494e9},
                   {"qwen3-0.6b", 0.596e9, 0.596e9},    {"qwen3-30b-a3b", 30.5e9, 3.3e9},
                   {"gpt-oss-20b", 20.9e9, 3.6e9},      {"gpt-oss-120b", 116.8e9, 5.1e9}};
  for (const auto& p : published) {
    RandomConfigRequest request;
    request.like = p.like;
    std::ofstream(root_ / "config.json") << MakeRandomConfig(request)->dump();
    const auto config = ReadModelConfig(root_.string());
    ASSERT_TRUE(config.ok());
    const ParameterCount count =
        CountParameters(*config, PlanTensors(*config, *FindFamily(config->family)->names, 1 << 20));
    EXPECT_NEAR(static_cast<double>(count.total) / p.total, 1, 0.02) << p.like;
    EXPECT_NEAR(static_cast<double>(count.active) / p.active, 1, 0.08) << p.like;
  }
}

TEST_F(RandomModelTest, InfoNamesAMissingTensorAndAWrongShape) {
  ASSERT_TRUE(MakeRandomModel(Small("a", "llama")).ok());
  std::string config = ReadFileText(Path("a/config.json"));
  const auto change = [&](const std::string& from, const std::string& to) {
    std::string text = config;
    text.replace(text.find(from), from.size(), to);
    std::ofstream(root_ / "a" / "config.json") << text;
    return MessageOf(DescribeModel(Path("a")).status());
  };
  EXPECT_THAT(change("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
              HasSubstr("model.layers.2.input_layernorm.weight is missing"));
  EXPECT_THAT(change("\"intermediate_size\": 50", "\"intermediate_size\": 49"),
              HasSubstr("mlp.gate_proj.weight: shape [50, 36]"));
  EXPECT_EQ(DescribeModel(Path("nowhere")).status().code(), absl::StatusCode::kNotFound);
}

TEST(ByteTokenizer, HasEveryByteAndDistinctTokensOfAnySize) {
  for (const int64_t vocab : {kByteTokenizerMinVocab, int64_t{300}, int64_t{5000}}) {
    const auto text = MakeByteTokenizer(vocab, 128);
    ASSERT_TRUE(text.ok());
    const auto json = nlohmann::json::parse(text->tokenizer);
    EXPECT_EQ(json["model"]["vocab"].size(), static_cast<size_t>(vocab));
    EXPECT_EQ(json["model"]["merges"].size(), static_cast<size_t>(vocab - 264));
    EXPECT_EQ(json["model"]["vocab"]["A"], 8 + 'A');
    EXPECT_EQ(json["model"]["vocab"]["\u0120"], 8 + ' ');
    EXPECT_EQ(json["model"]["vocab"]["\u010a"], 8 + '\n');
    EXPECT_EQ(json["model"]["vocab"]["\u0143"], 8 + 0xad);
  }
  EXPECT_FALSE(MakeByteTokenizer(kByteTokenizerMinVocab - 1, 128).ok());
  EXPECT_FALSE(MakeByteTokenizer(kByteTokenizerMaxVocab + 1, 128).ok());
}

TEST(ByteTokenizer, ItsLimitIsWhatPairsGive) {
  const auto text = MakeByteTokenizer(kByteTokenizerMaxVocab, 128);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(nlohmann::json::parse(text->tokenizer)["model"]["vocab"].size(),
            static_cast<size_t>(kByteTokenizerMaxVocab));
}

}  // namespace
}  // namespace choir
