// Experts that come to a rank's card after the start: with the bytes that a load at the start would
// bring, in memory that others had before, while the engine computes; and no bit of an answer
// changes.
#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <thread>
#include <tuple>

#include "tests/golden/collector.h"
#include "tests/golden/golden.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "tests/support/local_group.h"
#include "tests/support/model_dir.h"
#include "worker/engine/engine.h"

namespace choir {
namespace {

using testing::HasSubstr;
using Bytes = std::vector<std::byte>;

// Of all tensors of an expert, in memory of `device`.
Bytes BytesOf(Device* device, const ExpertWeights& w) {
  Bytes bytes;
  for (const TensorView* t : {&w.gate, &w.up, &w.down, &w.gate_scale, &w.up_scale, &w.down_scale,
                              &w.gate_bias, &w.down_bias}) {
    if (t->empty()) continue;
    const DeviceBuffer host = device->AllocateHost(t->num_bytes()).value();
    device->Copy(host.data(), t->raw(), t->num_bytes());
    CHOIR_CHECK(device->Wait().ok());
    bytes.insert(bytes.end(), host.data(), host.data() + t->num_bytes());
  }
  return bytes;
}

constexpr char kWeights[] = "model.safetensors";

// Element i of a tensor of f32.
void Overwrite(const ModelDir& dir, const std::string& name, size_t i, float value) {
  std::string file = dir.Read(kWeights);
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof size);
  const auto header = nlohmann::json::parse(file.substr(8, size));
  CHOIR_CHECK(header.at(name).at("dtype") == "F32");
  const size_t begin = 8 + size + header.at(name).at("data_offsets")[0].get<size_t>();
  std::memcpy(file.data() + begin + 4 * i, &value, 4);
  dir.Write(kWeights, file);
}

// Every token of tiny_glm4_moe chooses the first `count` experts: rank 0 of two has them.
void PreferFirstExperts(const ModelDir& dir, size_t count) {
  for (const char* layer : {"1", "2"}) {
    for (size_t e = 0; e < count; ++e) {
      Overwrite(dir, fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer), e, 10);
    }
  }
}

struct Case {
  std::string checkpoint, dtype;
  int32_t redundant = 1;
};

// Rank 1 of two on a card.
class CardOfTwo {
 public:
  CardOfTwo(const std::string& table, const std::string& dir, const std::string& dtype,
            int32_t redundant)
      : gpu_(MakeGpuRank(table, 1)),
        loaded_(LoadOnGpu({.model_dir = dir,
                           .dtype = dtype,
                           .table = table,
                           .ranks = 2,
                           .redundant_experts = redundant},
                          gpu_, 1, [](auto) { return size_t{0}; })) {
    EXPECT_FALSE(gpu_.device->Allocate(1).ok()) << "what was reserved is what is needed";
  }
  const ModelInfo& info() const { return loaded_->info(); }
  Device* device() const { return gpu_.device.get(); }
  // Rank 1 holds `own` in layer `layer`, rank 0 all.
  static ExpertPlacement Placement(int32_t num_experts, std::vector<int32_t> own) {
    std::vector<int32_t> all;
    for (int32_t e = 0; e < num_experts; ++e) all.push_back(e);
    return ExpertPlacement(num_experts, {all, std::move(own)});
  }
  StatusOr<std::shared_ptr<const PlacedExperts>> Place(const std::vector<ExpertPlacement>& layers,
                                                       const PlacedExperts* before,
                                                       const std::stop_token& stop = {}) const {
    return loaded_->PlaceExperts(layers, 1, before, stop);
  }

 private:
  const GpuRank gpu_;
  const std::shared_ptr<const LoadedModel> loaded_;
};

class DevicePlacedExperts : public testing::TestWithParam<std::tuple<Case, std::string>> {};

TEST_P(DevicePlacedExperts, HaveTheBytesOfAStartWhereverTheyWere) {
  const auto& [checkpoint, table] = GetParam();
  const std::string dir = golden::Dir(checkpoint.checkpoint);
  auto whole = LoadModel({.model_dir = dir, .dtype = checkpoint.dtype}, *MakeReferenceKernels());
  ASSERT_TRUE(whole.ok()) << whole.status();
  const CardOfTwo card(table, dir, checkpoint.dtype, checkpoint.redundant);
  const ModelInfo& info = card.info();
  const auto want = (*whole)->PlaceExperts(FirstPlacement(info, 1), 0, nullptr, {});
  std::vector<ExpertPlacement> layers = FirstPlacement(info, 2);
  std::shared_ptr<const PlacedExperts> now = card.Place(layers, nullptr).value();
  EXPECT_EQ(now->loaded, 0);
  std::mt19937 random(5);
  int64_t read = 0;
  for (int round = 0; round < 12; ++round) {
    // Another set of one layer; at the end, that of the start.
    if (round == 11) {
      now.reset();
      layers = FirstPlacement(info, 2);
    } else {
      std::vector<int32_t> all(static_cast<size_t>(info.num_experts));
      for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
      std::shuffle(all.begin(), all.end(), random);
      all.resize(static_cast<size_t>(ExpertSlots(info.num_experts, 2, checkpoint.redundant)));
      std::sort(all.begin(), all.end());
      layers[random() % layers.size()] = CardOfTwo::Placement(info.num_experts, all);
    }
    auto next = card.Place(layers, now.get());
    ASSERT_TRUE(next.ok()) << next.status();
    now = *next;
    read += now->loaded;
    for (size_t l = 0; l < layers.size(); ++l) {
      const std::vector<int32_t>& own = layers[l].ExpertsOf(1);
      for (size_t slot = 0; slot < own.size(); ++slot) {
        ASSERT_EQ(BytesOf(card.device(), now->weights[l][slot]),
                  BytesOf(&HostDevice(), (*want)->weights[l][static_cast<size_t>(own[slot])]))
            << "round " << round << " layer " << l << " expert " << own[slot];
      }
    }
  }
  EXPECT_GT(read, 0);
}

std::string NameOfCase(const testing::TestParamInfo<std::tuple<Case, std::string>>& info) {
  const auto& [checkpoint, table] = info.param;
  return checkpoint.checkpoint + "_" + checkpoint.dtype + "_on_" + table;
}

INSTANTIATE_TEST_SUITE_P(Formats, DevicePlacedExperts,
                         testing::Combine(testing::Values(Case{"deepseek_v3_plain", "bf16"},
                                                          Case{"deepseek_v2_grouped", "f32", 2},
                                                          Case{"deepseek_v3_fp8", "auto"},
                                                          Case{"gpt_oss_mxfp4", "auto"}),
                                          testing::ValuesIn(EmulatedAndCards("gpu_emulated"))),
                         NameOfCase);

TEST(DevicePlacedExpertsErrors, WhatIsReadLaterIsCheckedAndLeavesNoHole) {
  const ModelDir dir("tiny_glm4_moe");
  const std::string good = dir.Read(kWeights);
  const CardOfTwo card("gpu_emulated", dir.path(), "f32", 1);
  const auto first = card.Place(FirstPlacement(card.info(), 2), nullptr).value();
  std::vector<ExpertPlacement> layers = FirstPlacement(card.info(), 2);
  layers[0] = CardOfTwo::Placement(10, {2, 5, 6, 7, 8, 9});
  const char name[] = "model.layers.1.mlp.experts.2.up_proj.weight";
  Overwrite(dir, name, 1, std::numeric_limits<float>::quiet_NaN());
  const Status status = card.Place(layers, first.get()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(name));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(card.Place(layers, first.get(), stop.get_token()).status().code(),
            absl::StatusCode::kCancelled);
  dir.Write(kWeights, good);
  EXPECT_TRUE(card.Place(layers, first.get()).ok());
}

// On a table of kernels.
class DeviceMoves : public testing::TestWithParam<std::string> {};

TEST_P(DeviceMoves, CopiesChangeNoBit) {
  const golden::Checkpoint checkpoint = golden::Load("gpt_oss_mxfp4");
  const std::vector<int32_t>& prompt = checkpoint.prompts[0].ids;
  const std::vector<int32_t> tokens(prompt.begin(), prompt.begin() + 9);
  GpuGroup group{.model_dir = checkpoint.dir,
                 .dtype = "bf16",
                 .table = GetParam(),
                 .ranks = 2,
                 .redundant_experts = 1};
  std::map<bool, std::vector<float>> logits;
  for (const bool moved : {false, true}) {
    RunnerOptions options{.step_tokens = 32, .positions_max = 64, .block_tokens = 8};
    if (moved) options.placement.assign(3, ExpertPlacement(5, {{1, 2, 3, 4}, {0, 2, 3, 4}}));
    RunGpuGroup(group, options, [&](int rank, ModelRunner& runner) {
      std::vector<ModelRunner::Rows> own;
      if (rank == 0) own.push_back({.tokens = tokens});
      const std::vector<float> rows = StepOrFail(runner, own);
      if (rank == 0) logits[moved] = rows;
    });
  }
  EXPECT_EQ(logits[true], logits[false]);
}

INSTANTIATE_TEST_SUITE_P(Copies, DeviceMoves,
                         testing::ValuesIn(EmulatedAndCards("gpu_tensor_emulated")),
                         [](const auto& info) { return "gpt_oss_mxfp4_on_" + info.param; });

// Two ranks on cards, which are asked in turn.
class MovingGroup {
 public:
  MovingGroup(const std::string& table, const std::string& dir, const std::vector<int32_t>& prompt,
              int32_t redundant)
      : prompt_(prompt),
        group_{.model_dir = dir,
               .dtype = "f32",
               .table = table,
               .ranks = 2,
               .redundant_experts = redundant} {
    EngineOptions options;
    options.step_tokens = 40;
    options.sequences_max = 8;
    options.block_tokens = 8;
    options.kv_bytes = uint64_t{1} << 20;
    options.context_length = 64;
    options.redundant_experts = redundant;
    options.placement_steps = 1;
    options.prefix_cache = false;
    for (int r = 0; r < group_.ranks; ++r) {
      gpus_.push_back(MakeGpuRank(group_.table, r));
      const KernelSet* kernels = gpus_.back().kernels.get();
      auto loaded = LoadOnGpu(group_, gpus_.back(), r, [&](auto sizes) {
        return Engine::BytesBeside(options, std::move(sizes), kernels, group_.ranks);
      });
      engines_.push_back(Engine::Make(options, std::move(loaded), kernels, group_.ranks,
                                      [this](const StepOutput& o) { answers_.Take(o); })
                             .value());
    }
    SetEpoch(1);
    for (auto& engine : engines_) threads_.emplace_back([&engine] { engine->Run(); });
  }
  ~MovingGroup() {
    for (auto& engine : engines_) engine->Stop();
    threads_.clear();
  }
  void SetEpoch(uint64_t generation) {
    auto ranks = MakeLocalCollectives(group_.ranks, generation, {});
    for (size_t r = 0; r < engines_.size(); ++r) engines_[r]->SetEpoch(std::move(ranks[r]));
  }
  std::vector<int32_t> Ask() {
    SequenceRequest request;
    request.id = SequenceId(++id_);
    request.tokens = prompt_;
    request.num_prompt = static_cast<int32_t>(prompt_.size());
    request.max_tokens = 2;
    CHOIR_CHECK(engines_[id_ % engines_.size()]->Submit(std::move(request)).ok());
    EXPECT_EQ(answers_.Wait(id_), Finish::kLength);
    return answers_.tokens().at(id_);
  }
  ExpertPlacementStats stats() const { return engines_[0]->stats().placement; }
  uint64_t moves() const {
    uint64_t moves = 0;
    for (const auto& engine : engines_) moves += engine->stats().placement.moves;
    return moves;
  }

 private:
  const std::vector<int32_t> prompt_;
  const GpuGroup group_;
  Collector answers_;
  std::vector<GpuRank> gpus_;
  std::vector<std::unique_ptr<Engine>> engines_;
  std::vector<std::jthread> threads_;
  uint64_t id_ = 0;
};

class DeviceEngineMoves : public testing::TestWithParam<std::string> {};

TEST_P(DeviceEngineMoves, GiveTheSameTokens) {
  const ModelDir dir("tiny_glm4_moe");
  PreferFirstExperts(dir, 4);
  std::vector<int32_t> prompt = golden::Load("tiny_glm4_moe").prompts[0].ids;
  prompt.resize(40, 1);
  MovingGroup group(GetParam(), dir.path(), prompt, 1);
  const std::vector<int32_t> tokens = group.Ask();
  const auto ask_until = [&](uint64_t applied) {
    for (int i = 0; i < 300 && group.stats().applied < applied; ++i) {
      ASSERT_EQ(group.Ask(), tokens) << i;
    }
  };
  ask_until(1);
  EXPECT_GE(group.stats().applied, 1u);
  EXPECT_GE(group.moves(), 1u);
  EXPECT_EQ(group.stats().failed, 0u);
  EXPECT_EQ(group.Ask(), tokens) << "after it";
  // An epoch begins as the first one did.
  group.SetEpoch(2);
  EXPECT_EQ(group.Ask(), tokens);
  EXPECT_EQ(group.stats().version, 0u);
  ask_until(2);
  EXPECT_EQ(group.Ask(), tokens);
  EXPECT_EQ(group.stats().failed, 0u);
}

INSTANTIATE_TEST_SUITE_P(Moves, DeviceEngineMoves,
                         testing::ValuesIn(EmulatedAndCards("gpu_emulated")),
                         [](const auto& info) { return "tiny_glm4_moe_on_" + info.param; });

}  // namespace
}  // namespace choir
