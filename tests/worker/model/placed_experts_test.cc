// Experts that come to a rank after the start: read from the files, checked, with the same bits.
#include "worker/model/placed_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/golden/golden.h"
#include "tests/support/local_group.h"
#include "tests/support/model_dir.h"
#include "worker/model/loaded_model.h"

namespace choir {
namespace {

using testing::HasSubstr;

std::shared_ptr<const LoadedModel> LoadRank(const std::string& dir, const std::string& dtype,
                                            int rank, int num_ranks) {
  auto loaded = LoadModel({.model_dir = dir, .dtype = dtype, .rank = rank, .num_ranks = num_ranks},
                          *MakeReferenceKernels());
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *loaded : nullptr;
}

std::shared_ptr<const PlacedExperts> PlaceOrFail(const LoadedModel& loaded,
                                                 std::vector<ExpertPlacement> layers, int32_t rank,
                                                 const PlacedExperts* before) {
  auto placed = loaded.PlaceExperts(std::move(layers), rank, before, {});
  EXPECT_TRUE(placed.ok()) << placed.status();
  return placed.ok() ? *placed : nullptr;
}

std::vector<TensorView> ViewsOf(const ExpertWeights& w) {
  return {w.gate, w.up, w.down, w.gate_scale, w.up_scale, w.down_scale, w.gate_bias, w.down_bias};
}

void ExpectSame(const ExpertWeights& a, const ExpertWeights& b) {
  const std::vector<TensorView> x = ViewsOf(a), y = ViewsOf(b);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(x[i].empty(), y[i].empty()) << i;
    if (x[i].empty()) continue;
    ASSERT_EQ(x[i].dtype(), y[i].dtype());
    ASSERT_EQ(x[i].num_bytes(), y[i].num_bytes());
    EXPECT_EQ(std::memcmp(x[i].raw(), y[i].raw(), x[i].num_bytes()), 0) << i;
  }
}

// Every expert on both of two ranks.
std::vector<ExpertPlacement> Everywhere(const ModelInfo& info) {
  std::vector<int32_t> all(static_cast<size_t>(info.num_experts));
  for (int32_t e = 0; e < info.num_experts; ++e) all[static_cast<size_t>(e)] = e;
  return std::vector(static_cast<size_t>(info.expert_layers),
                     ExpertPlacement(info.num_experts, {all, all}));
}

struct Case {
  std::string checkpoint, dtype;
};

class PlacedExpertsOf : public testing::TestWithParam<Case> {};

TEST_P(PlacedExpertsOf, HaveTheBitsOfTheStartAndComeAndGo) {
  const std::string dir = golden::Dir(GetParam().checkpoint);
  const auto whole = LoadRank(dir, GetParam().dtype, 0, 1),
             half = LoadRank(dir, GetParam().dtype, 1, 2);
  const ModelInfo& info = half->info();
  const auto want = PlaceOrFail(*whole, FirstPlacement(info, 1), 0, nullptr);
  const auto first = PlaceOrFail(*half, FirstPlacement(info, 2), 1, nullptr);
  EXPECT_EQ(first->loaded, 0);
  std::shared_ptr<const PlacedExperts> now = first;
  for (int round = 0; round < 2; ++round) {
    now = PlaceOrFail(*half, Everywhere(info), 1, now.get());
    const auto others = static_cast<int64_t>(FirstPlacement(info, 2).at(0).ExpertsOf(0).size());
    EXPECT_EQ(now->loaded, others * info.expert_layers);
    for (size_t l = 0; l < now->weights.size(); ++l) {
      for (size_t e = 0; e < now->weights[l].size(); ++e) {
        ExpectSame(now->weights[l][e], want->weights[l][e]);
      }
      const size_t last = now->weights[l].size() - 1;  // was there from the start
      EXPECT_EQ(now->memory[l][last], first->memory[l].back());
    }
    now = PlaceOrFail(*half, FirstPlacement(info, 2), 1, now.get());
    EXPECT_EQ(now->loaded, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, PlacedExpertsOf,
    testing::Values(Case{"tiny_glm4_moe", "f32"}, Case{"tiny_glm4_moe", "bf16"},
                    Case{"qwen3_moe_f16", "bf16"}, Case{"qwen3_moe_f16", "auto"},
                    Case{"deepseek_v3_fp8", "auto"}, Case{"gpt_oss_mxfp4", "auto"},
                    Case{"gpt_oss_bf16", "auto"}, Case{"gpt_oss_bf16", "f32"}),
    [](const auto& info) { return info.param.checkpoint + "_" + info.param.dtype; });

TEST(PlacedExperts, WhatIsReadLaterIsCheckedAsAtTheStart) {
  const ModelDir dir("tiny_glm4_moe");
  std::string file = dir.Read("model.safetensors");
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof size);
  const auto header = nlohmann::json::parse(file.substr(8, size));
  const char name[] = "model.layers.1.mlp.experts.2.up_proj.weight";
  const uint32_t nan = 0x7fc00000;
  file.replace(8 + size + header.at(name).at("data_offsets")[0].get<size_t>() + 4, 4,
               reinterpret_cast<const char*>(&nan), 4);
  dir.Write("model.safetensors", file);
  const auto damaged = LoadRank(dir.path(), "bf16", 1, 2);
  ASSERT_NE(damaged, nullptr) << "it does not read that expert";
  const Status status = damaged->PlaceExperts(Everywhere(damaged->info()), 1, nullptr, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr(name));
}

TEST(PlacedExperts, ReadingEndsWhenItIsToldToStop) {
  const auto loaded = LoadRank(golden::Dir("tiny_glm4_moe"), "auto", 1, 2);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(loaded->PlaceExperts(Everywhere(loaded->info()), 1, nullptr, stop.get_token())
                .status()
                .code(),
            absl::StatusCode::kCancelled);
  EXPECT_TRUE(
      loaded->PlaceExperts(FirstPlacement(loaded->info(), 2), 1, nullptr, stop.get_token()).ok())
      << "nothing to read";
}

}  // namespace
}  // namespace choir
