// Weights in f16, block FP8 and MXFP4: what loads, as what, and what is refused.
#include "worker/model/weights/quantized_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/golden/golden.h"
#include "tests/support/local_group.h"
#include "tests/support/model_dir.h"
#include "worker/model/loaded_model.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kWeights[] = "model.safetensors";
constexpr char kDown[] = "model.layers.0.mlp.down_proj.weight";
constexpr char kScale[] = "model.layers.0.mlp.down_proj.weight_scale_inv";
constexpr char kExponents[] = "model.layers.1.mlp.experts.down_proj_scales";

std::string ErrorOf(const ModelDir& dir, int rank = 0, int num_ranks = 1) {
  const Status status = LoadModel({.model_dir = dir.path(), .rank = rank, .num_ranks = num_ranks},
                                  *MakeReferenceKernels())
                            .status();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(MessageOf(status).find('\n'), std::string::npos);
  return MessageOf(status);
}

// Overwrites bytes of a tensor from `at` on.
template <class T>
void Patch(const ModelDir& dir, const std::string& tensor, size_t at, T value) {
  std::string file = dir.Read(kWeights);
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof size);
  const json header = json::parse(file.substr(8, size));
  const size_t begin = 8 + size + header.at(tensor).at("data_offsets")[0].get<size_t>();
  file.replace(begin + at, sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
  dir.Write(kWeights, file);
}

void Rename(const ModelDir& dir, const std::string& from, const std::string& to) {
  dir.EditHeader(kWeights, [&](json& header) {
    header[to] = header[from];
    header.erase(from);
  });
}

void EditQuant(const ModelDir& dir, const char* key, json value) {
  dir.EditJson("config.json",
               [&](json& config) { config["quantization_config"][key] = std::move(value); });
}

std::vector<float> LogitsOf(const std::string& dir, const std::string& dtype) {
  const auto kernels = MakeReferenceKernels();
  const std::vector<int32_t> tokens = {5, 9, 1, 7};
  std::vector<float> logits;
  RunGroup(LoadOrFail(dir, dtype, *kernels), *kernels, 1, {.positions_max = 8},
           [&](int, ModelRunner& runner) { logits = StepOrFail(runner, {{.tokens = tokens}}); });
  return logits;
}

TEST(QuantizedWeights, StayAsTheyAreInTheFile) {
  for (const char* name : {"deepseek_v3_fp8", "qwen3_moe_fp8", "gpt_oss_mxfp4", "qwen3_moe_f16"}) {
    const auto files = WeightFiles::Open(golden::Dir(name));
    ASSERT_TRUE(files.ok());
    const auto loaded = LoadOrFail(golden::Dir(name), "auto", *MakeReferenceKernels());
    // Besides, kv_b in bf16 and vectors of f16 in f32.
    EXPECT_LT(loaded->info().weight_bytes, (*files)->total_bytes() * 112 / 100) << name;
    EXPECT_LT(loaded->info().active_weight_bytes, (*files)->total_bytes()) << name;
  }
}

TEST(QuantizedWeights, AutoComputesInBf16UnlessTheFileIsF16) {
  const auto compute = [](const char* name, const char* dtype) {
    return LoadOrFail(golden::Dir(name), dtype, *MakeReferenceKernels())->compute();
  };
  EXPECT_EQ(compute("deepseek_v3_fp8", "auto"), Compute::kBF16);
  EXPECT_EQ(compute("gpt_oss_mxfp4", "auto"), Compute::kBF16);
  EXPECT_EQ(compute("qwen3_moe_f16", "auto"), Compute::kF32);
  EXPECT_EQ(compute("qwen3_moe_f16", "bf16"), Compute::kBF16);
}

TEST(QuantizedWeights, Bf16OfAnF16FileIsAnotherModelOfTheSameSize) {
  const std::string dir = golden::Dir("qwen3_moe_f16");
  const std::vector<float> wide = LogitsOf(dir, "f32");
  const std::vector<float> narrow = LogitsOf(dir, "bf16");
  EXPECT_NE(wide, narrow);
  EXPECT_LT(golden::RelativeError(narrow, wide), 0.1f);
}

TEST(QuantizedWeights, ARankKeepsItsPartOfStackedExperts) {
  const auto kernels = MakeReferenceKernels();
  for (const char* name : {"gpt_oss_bf16", "gpt_oss_mxfp4"}) {
    for (const char* dtype : {"auto", "f32"}) {
      const std::string dir = golden::Dir(name);
      const auto all = LoadModel({.model_dir = dir, .dtype = dtype}, *kernels);
      const auto part =
          LoadModel({.model_dir = dir, .dtype = dtype, .rank = 1, .num_ranks = 3}, *kernels);
      ASSERT_TRUE(all.ok() && part.ok());
      EXPECT_LT((*part)->info().weight_bytes, (*all)->info().weight_bytes);
      EXPECT_EQ((*part)->info().active_weight_bytes, (*all)->info().active_weight_bytes);
      EXPECT_EQ((*part)->numerics_id(), (*all)->numerics_id());
    }
  }
}

TEST(QuantizedWeights, LieAtOddOffsetsToo) {
  for (const char* name : {"deepseek_v3_fp8", "qwen3_moe_fp8", "gpt_oss_mxfp4", "qwen3_moe_f16"}) {
    const ModelDir dir(name);
    const std::string file = dir.Read(kWeights);
    uint64_t size = 0;
    std::memcpy(&size, file.data(), sizeof size);
    dir.ReplaceHeader(kWeights, file.substr(8, size) + (size % 2 == 0 ? " " : "  "));
    EXPECT_EQ(LogitsOf(dir.path(), "auto"), LogitsOf(golden::Dir(name), "auto")) << name;
  }
}

TEST(QuantizedWeights, ScalesMustBeThereWithTheirShape) {
  const ModelDir missing("deepseek_v3_fp8");
  Rename(missing, kScale, "other");
  EXPECT_THAT(ErrorOf(missing), HasSubstr(kScale));
  const ModelDir misshapen("deepseek_v3_fp8");
  misshapen.EditHeader(kWeights, [&](json& header) {  // [2, 2] blocks
    header[kScale]["shape"] = {4, 1};
  });
  EXPECT_THAT(ErrorOf(misshapen), testing::AllOf(HasSubstr(kScale), HasSubstr("[2, 2]")));
  const ModelDir no_exponents("gpt_oss_mxfp4");
  Rename(no_exponents, kExponents, "other");
  EXPECT_THAT(ErrorOf(no_exponents), HasSubstr(kExponents));
}

TEST(QuantizedWeights, ScalesMustBeNumbers) {
  for (const float bad : {std::nanf(""), -1.0f, std::numeric_limits<float>::infinity()}) {
    const ModelDir dir("deepseek_v3_fp8");
    Patch(dir, kScale, 3 * sizeof bad, bad);
    EXPECT_THAT(ErrorOf(dir), testing::AllOf(HasSubstr(kScale), HasSubstr("[1, 1]"))) << bad;
  }
  for (const uint8_t bad : {uint8_t{255}, uint8_t{253}}) {
    const ModelDir dir("gpt_oss_mxfp4");
    Patch(dir, kExponents, 7, bad);
    EXPECT_THAT(ErrorOf(dir), testing::AllOf(HasSubstr(kExponents), HasSubstr("expert 0")));
  }
}

TEST(QuantizedWeights, ABrokenScaleOfAnotherRanksExpertIsThatRanksToReport) {
  const ModelDir dir("gpt_oss_mxfp4");
  Patch(dir, kExponents, 7, uint8_t{255});  // of expert 0
  EXPECT_TRUE(
      LoadModel({.model_dir = dir.path(), .rank = 1, .num_ranks = 2}, *MakeReferenceKernels())
          .ok());
  EXPECT_THAT(ErrorOf(dir, 0, 2), HasSubstr(kExponents));
}

TEST(QuantizedWeights, AFormatThatTheConfigDoesNotSayIsRefused) {
  const ModelDir fp8("deepseek_v3_fp8");
  fp8.SetConfig("quantization_config", nullptr);
  EXPECT_THAT(ErrorOf(fp8), testing::AllOf(HasSubstr("F8_E4M3"), HasSubstr("quantization_config")));
  const ModelDir mxfp4("gpt_oss_mxfp4");
  mxfp4.SetConfig("quantization_config", nullptr);
  EXPECT_THAT(ErrorOf(mxfp4), testing::AllOf(HasSubstr("_blocks"), HasSubstr("mxfp4")));
  const ModelDir kept("deepseek_v3_fp8");
  EditQuant(kept, "modules_to_not_convert", {"model.layers.0.mlp"});
  EXPECT_THAT(ErrorOf(kept), testing::AllOf(HasSubstr("model.layers.0.mlp."),
                                            HasSubstr("modules_to_not_convert")));
}

TEST(QuantizedWeights, AScaleWithoutItsWeightIsRefused) {
  const ModelDir dir("llama_biased");
  dir.EditHeader("model-00001-of-00003.safetensors", [](json& header) {
    for (auto& [name, entry] : header.items()) {
      if (!name.ends_with("q_proj.bias")) continue;
      const std::string scale = name.substr(0, name.size() - 4) + "weight_scale_inv";
      const json moved = entry;
      header[scale] = moved;
      header.erase(name);
      return;
    }
  });
  dir.EditJson("model.safetensors.index.json", [](json& index) {
    json& map = index["weight_map"];
    map["model.layers.0.self_attn.q_proj.weight_scale_inv"] =
        map["model.layers.0.self_attn.q_proj.bias"];
    map.erase("model.layers.0.self_attn.q_proj.bias");
  });
  EXPECT_THAT(ErrorOf(dir), HasSubstr("q_proj.weight_scale_inv"));
}

TEST(QuantizedWeights, EmbeddingsAndNormsAreNeverFp8) {
  const ModelDir dir("deepseek_v3_fp8");
  dir.EditHeader(kWeights, [&](json& header) {
    json& entry = header["model.norm.weight"];
    const auto begin = entry["data_offsets"][0].get<int64_t>();
    entry["dtype"] = "F8_E4M3";
    entry["data_offsets"] = {begin, begin + 140};
    header["rest"] = {
        {"dtype", "U8"}, {"shape", {140}}, {"data_offsets", {begin + 140, begin + 280}}};
  });
  EXPECT_THAT(ErrorOf(dir), testing::AllOf(HasSubstr("model.norm.weight"), HasSubstr("F8_E4M3")));
}

TEST(QuantizedWeights, OtherQuantizationIsRefusedByKeyAndValue) {
  const std::vector<std::pair<const char*, json>> edits = {
      {"quant_method", "awq"},
      {"quant_method", nullptr},
      {"quant_method", 8},
      {"weight_block_size", {64, 128}},
      {"weight_block_size", nullptr},
      {"weight_block_size", {128}},
      {"fmt", "e5m2"},
      {"activation_scheme", "static"},
      {"scale_fmt", "e5m2"},
      {"modules_to_not_convert", "lm_head"},
  };
  for (const auto& [key, value] : edits) {
    const ModelDir dir("deepseek_v3_fp8");
    EditQuant(dir, key, value);
    EXPECT_THAT(ErrorOf(dir), testing::AllOf(HasSubstr("config.json"), HasSubstr(key))) << value;
  }
  const ModelDir other("tiny_llama");
  other.SetConfig("quantization_config", {{"quant_method", "mxfp4"}});
  EXPECT_THAT(ErrorOf(other), HasSubstr("mxfp4"));
  const ModelDir text("tiny_llama");
  text.SetConfig("quantization_config", "fp8");
  EXPECT_THAT(ErrorOf(text), HasSubstr("quantization_config"));
}

TEST(QuantizedWeights, PublishedVariantsOfTheConfigLoad) {
  const ModelDir dir("deepseek_v3_fp8");
  EditQuant(dir, "scale_fmt", "ue8m0");
  EditQuant(dir, "modules_to_not_convert", {"lm_head", "model.layers.*.mlp.gate"});
  EXPECT_EQ(LogitsOf(dir.path(), "f32"), LogitsOf(golden::Dir("deepseek_v3_fp8"), "f32"));
}

TEST(QuantizedWeights, NamesOfModulesMatchWholeParts) {
  const QuantConfig quant{.plain_modules = {"lm_head", "model.layers.1.mlp"}};
  EXPECT_TRUE(quant.Keeps("lm_head"));
  EXPECT_TRUE(quant.Keeps("model.layers.1.mlp.up_proj"));
  EXPECT_FALSE(quant.Keeps("model.layers.1.mlp2"));
  EXPECT_FALSE(quant.Keeps("model.layers.11.mlp"));
}

// The same bytes in another dtype are another model.
TEST(QuantizedWeights, TheNumericsIdTellsDTypesApart) {
  const auto id = [](const ModelDir& dir, const char* dtype) {
    return LoadOrFail(dir.path(), dtype, *MakeReferenceKernels())->numerics_id();
  };
  const ModelDir half("qwen3_moe_f16"), brain("qwen3_moe_f16");
  brain.EditHeader(kWeights, [](json& header) {
    for (auto& [name, entry] : header.items()) {
      if (name != "__metadata__") entry["dtype"] = "BF16";
    }
  });
  EXPECT_NE(id(half, "f32"), id(brain, "f32"));
  EXPECT_NE(id(half, "bf16"), id(brain, "bf16"));
  EXPECT_NE(id(half, "f32"), id(half, "bf16"));
  EXPECT_EQ(id(half, "auto"), id(half, "f32"));
  const ModelDir fp8("deepseek_v3_fp8");
  EXPECT_EQ(id(fp8, "auto"), id(fp8, "bf16"));
  EXPECT_NE(id(fp8, "auto"), id(fp8, "f32"));
}

}  // namespace
}  // namespace choir
