// What LoadModel makes of a sound directory.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "tests/golden/golden.h"
#include "tests/support/local_group.h"
#include "tests/support/model_dir.h"

namespace choir {
namespace {

std::shared_ptr<const LoadedModel> Load(const std::string& dir, const std::string& dtype = "auto") {
  return LoadOrFail(dir, dtype, *MakeReferenceKernels());
}

std::vector<float> LogitsOf(std::shared_ptr<const LoadedModel> loaded) {
  const auto kernels = MakeReferenceKernels();
  const std::vector<int32_t> tokens = {5, 9, 1, 7};
  std::vector<float> logits;
  RunGroup(loaded, *kernels, 1, {.positions_max = 8},
           [&](int, ModelRunner& runner) { logits = StepOrFail(runner, {{.tokens = tokens}}); });
  return logits;
}

TEST(LoadModel, DescribesTheModel) {
  const auto loaded = Load(golden::Dir("deepseek_v3_plain"));
  const ModelInfo& info = loaded->info();
  EXPECT_EQ(info.family, "deepseek_v3");
  EXPECT_EQ(info.vocab, 97);
  EXPECT_EQ(info.num_experts, 21);
  EXPECT_GT(info.weight_bytes, info.active_weight_bytes);
  const KvLayout kv = loaded->kv_layout();
  EXPECT_EQ(kv.dtype, DType::kBF16);
  EXPECT_EQ(kv.layers.size(), static_cast<size_t>(info.layers));
  EXPECT_EQ(kv.layers[0].kind, LayerKv::Kind::kLatent);
  EXPECT_EQ(kv.layers[0].v_width, 0);
}

TEST(LoadModel, TheKvLayoutTellsEachLayersWindow) {
  std::vector<int64_t> windows;
  for (const LayerKv& layer : Load(golden::Dir("qwen2_sliding"))->kv_layout().layers) {
    EXPECT_EQ(layer.k_width, 10);
    windows.push_back(layer.window);
  }
  EXPECT_EQ(windows, (std::vector<int64_t>{0, 0, 9, 9}));
}

TEST(LoadModel, AutoFollowsTheFilesDType) {
  EXPECT_EQ(Load(golden::Dir("tiny_llama"))->compute(), Compute::kF32);
  EXPECT_EQ(Load(golden::Dir("llama_biased"))->compute(), Compute::kBF16);
  EXPECT_EQ(Load(golden::Dir("llama_biased"), "f32")->compute(), Compute::kF32);
}

TEST(LoadModel, Bf16OfAnF32FileHoldsHalfTheBytes) {
  const auto wide = Load(golden::Dir("tiny_llama")),
             narrow = Load(golden::Dir("tiny_llama"), "bf16");
  EXPECT_EQ(narrow->compute(), Compute::kBF16);
  EXPECT_LT(narrow->info().weight_bytes, wide->info().weight_bytes * 11 / 20);
}

TEST(LoadModel, RefusesAnUnknownDType) {
  const Status status =
      LoadModel({.model_dir = golden::Dir("tiny_llama"), .dtype = "fp8"}, *MakeReferenceKernels())
          .status();
  EXPECT_NE(MessageOf(status).find("fp8"), std::string::npos);
}

TEST(LoadModel, WhatTheSizesForbidIsSaidBeforeAnyWeightIsRead) {
  LoadOptions options{.model_dir = golden::Dir("deepseek_v3_plain"),
                      .weights_digest = std::string(64, '0')};  // telling it reads them all
  bool read = false;
  options.progress = [&](int64_t, int64_t) { read = true; };
  ModelInfo seen;
  options.check = [&](const LoadedModel& sizes) {
    seen = sizes.info();
    EXPECT_GT(sizes.kv_layout().layers.size(), 0u);
    EXPECT_TRUE(sizes.device().ReadsHostMemory());
    return InvalidArgument("not this one");
  };
  EXPECT_EQ(MessageOf(LoadModel(options, *MakeReferenceKernels()).status()), "not this one");
  EXPECT_FALSE(read);
  EXPECT_EQ(seen.num_experts, 21);
}

TEST(LoadModel, ADigestThatIsWantedHasToBeTheWeights) {
  LoadOptions options{.model_dir = golden::Dir("tiny_llama")};
  const std::string digest = Load(options.model_dir)->info().weights_digest;
  options.weights_digest = digest;
  EXPECT_TRUE(LoadModel(options, *MakeReferenceKernels()).ok());
  options.weights_digest = std::string(64, '0');
  bool read = false;
  options.progress = [&](int64_t, int64_t) { read = true; };
  const std::string message = MessageOf(LoadModel(options, *MakeReferenceKernels()).status());
  EXPECT_NE(message.find("is " + digest), std::string::npos) << message;
  EXPECT_NE(message.find(options.weights_digest + " is wanted"), std::string::npos) << message;
  EXPECT_FALSE(read);
}

TEST(LoadModel, ReportsProgressUpToTheTotal) {
  int64_t last = 0, total = 0;
  LoadOptions options{.model_dir = golden::Dir("llama_biased")};
  options.progress = [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  ASSERT_TRUE(LoadModel(options, *MakeReferenceKernels()).ok());
  EXPECT_EQ(last, total);
  EXPECT_GT(total, 0);
}

// The format promises no alignment; a header of odd length puts every tensor at an odd offset.
TEST(LoadModel, ReadsTensorsAtOddOffsets) {
  for (const char* name : {"tiny_llama", "deepseek_v3_plain"}) {
    const ModelDir dir(name);
    const std::string file = dir.Read("model.safetensors");
    uint64_t size = 0;
    std::memcpy(&size, file.data(), sizeof(size));
    std::string header = file.substr(8, size);
    header.append(size % 2 == 0 ? 1 : 2, ' ');
    dir.ReplaceHeader("model.safetensors", header);
    EXPECT_EQ(LogitsOf(Load(dir.path())), LogitsOf(Load(golden::Dir(name)))) << name;
  }
}

// As transformers does: the key says "tied", but two different matrices in the file stay two.
TEST(LoadModel, ATiedHeadThatDiffersInTheFileIsUsed) {
  const ModelDir dir("llama_biased");
  dir.SetConfig("tie_word_embeddings", true);
  EXPECT_EQ(LogitsOf(Load(dir.path())), LogitsOf(Load(golden::Dir("llama_biased"))));
}

TEST(LoadModel, ATiedModelMayHoldOnlyTheHead) {
  const ModelDir dir("tiny_llama");
  dir.EditHeader("model.safetensors", [](nlohmann::json& header) {
    header["lm_head.weight"] = header["model.embed_tokens.weight"];
    header.erase("model.embed_tokens.weight");
  });
  EXPECT_EQ(LogitsOf(Load(dir.path())), LogitsOf(Load(golden::Dir("tiny_llama"))));
}

TEST(LoadModel, ARankOfSeveralKeepsOnlyItsExperts) {
  const auto kernels = MakeReferenceKernels();
  const std::string dir = golden::Dir("deepseek_v3_plain");
  const auto all = LoadModel({.model_dir = dir}, *kernels);
  const auto part = LoadModel({.model_dir = dir, .rank = 1, .num_ranks = 4}, *kernels);
  ASSERT_TRUE(all.ok() && part.ok());
  EXPECT_LT((*part)->info().weight_bytes, (*all)->info().weight_bytes);
  EXPECT_EQ((*part)->info().active_weight_bytes, (*all)->info().active_weight_bytes);
  EXPECT_EQ((*part)->numerics_id(), (*all)->numerics_id());
}

TEST(LoadModel, FollowsLinksToFiles) {
  const ModelDir dir("");
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::create_symlink(golden::Dir("tiny_llama") + "/" + name, dir.File(name));
  }
  EXPECT_EQ(LogitsOf(Load(dir.path())), LogitsOf(Load(golden::Dir("tiny_llama"))));
}

}  // namespace
}  // namespace choir
