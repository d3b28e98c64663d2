// A device that leaves experts to the host (docs/decisions/0040): logits stay transformers', their
// bits depend neither on chunks, company nor ranks, and who computes what is in the numerics id.
#include <gmock/gmock.h>

#include <algorithm>
#include <tuple>

#include "tests/golden/golden.h"
#include "tests/golden/logit_rows.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "tests/support/local_group.h"
#include "tests/support/temp_dir.h"
#include "worker/model/expert_counts.h"

namespace choir {
namespace {

constexpr float kTolerance = 1e-4f;  // of the largest logit

using golden::NameOf;
using golden::Row;
using golden::RowsOf;
using Param = golden::OnTable;

int32_t ExpertsIn(const golden::Checkpoint& checkpoint) {
  return static_cast<int32_t>(ReadModelConfig(checkpoint.dir).value().moe->experts);
}

// Counts by which the host gets four experts of each layer, the same ones on 1, 2 and 4 ranks: the
// first of each rank of four.
std::string WriteCounts(const golden::Checkpoint& checkpoint, const TempDir& dir) {
  const ModelConfig config = ReadModelConfig(checkpoint.dir).value();
  ExpertCounts counts{.num_experts = ExpertsIn(checkpoint)};
  const ExpertPlacement four(counts.num_experts, 4);
  for (int32_t l = 0; l < config.layers; ++l) {
    if (!config.IsMoe(l)) continue;
    counts.layers.push_back(l);
    std::vector<uint64_t> rows(static_cast<size_t>(counts.num_experts), 100);
    for (int r = 0; r < 4; ++r) rows[static_cast<size_t>(four.ExpertsOf(r).front())] = 1;
    counts.rows.insert(counts.rows.end(), rows.begin(), rows.end());
  }
  const std::string path = dir.path() + "/counts.json";
  CHOIR_CHECK(WriteExpertCounts(path, counts).ok());
  return path;
}

class HostExpertsOf : public testing::TestWithParam<Param> {
 protected:
  GpuGroup Group(int ranks, const std::string& dtype) const {
    return {.model_dir = checkpoint_.dir,
            .dtype = dtype,
            .table = std::get<1>(GetParam()),
            .ranks = ranks,
            .host_experts = {.count = 4 / ranks, .hotness = {counts_}, .kernels = kernels_.get()}};
  }

  const golden::Checkpoint checkpoint_ = golden::Load(std::get<0>(GetParam()));
  const TempDir dir_;
  const std::string counts_ = WriteCounts(checkpoint_, dir_);
  const std::unique_ptr<KernelSet> kernels_ = MakeCpuKernels("auto").value();
  const RunnerOptions options_{
      .step_tokens = 32, .positions_max = 64, .block_tokens = 8, .sequences = 3, .num_threads = 2};
};

class HostExpertsLogits : public HostExpertsOf {};

TEST_P(HostExpertsLogits, AreThoseOfTransformers) {
  RunGpuGroup(Group(1, "f32"), {.positions_max = 256}, [&](int, ModelRunner& runner) {
    for (const golden::Prompt& prompt : checkpoint_.prompts) {
      const auto rows = RowsOf(StepOrFail(runner, {{.tokens = prompt.ids}}), checkpoint_.vocab);
      ASSERT_EQ(rows.size(), prompt.ids.size());
      for (size_t i = 0; i < prompt.positions.size(); ++i) {
        EXPECT_LT(
            golden::RelativeError(rows[static_cast<size_t>(prompt.positions[i])], prompt.logits[i]),
            kTolerance)
            << prompt.positions[i];
      }
    }
  });
}

class HostExpertsBits : public HostExpertsOf {};

TEST_P(HostExpertsBits, DependOnNeitherChunksNorCompanyNorRanks) {
  const std::vector<int32_t>& prompt = checkpoint_.prompts[0].ids;
  const std::vector<int32_t> tokens(prompt.begin(), prompt.begin() + 9);
  std::vector<Row> alone;
  RunGpuGroup(Group(1, "bf16"), options_, [&](int, ModelRunner& runner) {
    alone = RowsOf(StepOrFail(runner, {{.tokens = tokens}}), checkpoint_.vocab);
    const auto begin = StepOrFail(runner, {{.sequence = 1, .tokens = std::span(tokens).first(4)}});
    const auto rest = StepOrFail(
        runner, {{.sequence = 2, .tokens = std::span(tokens).last(5)},
                 {.sequence = 1, .tokens = std::span(tokens).subspan(4), .first_position = 4}});
    std::vector<Row> rows = RowsOf(begin, checkpoint_.vocab);
    const std::vector<Row> more = RowsOf(rest, checkpoint_.vocab);
    rows.insert(rows.end(), more.begin() + 5, more.end());
    EXPECT_EQ(rows, alone) << "in chunks, beside others";
  });
  for (const int ranks : {2, 4}) {
    RunGpuGroup(Group(ranks, "bf16"), options_, [&](int rank, ModelRunner& runner) {
      std::vector<ModelRunner::Rows> own;
      if (rank + 1 < ranks) own.push_back({.tokens = tokens});  // the last one only helps
      const auto rows = RowsOf(StepOrFail(runner, own), checkpoint_.vocab);
      if (rank + 1 < ranks) {
        EXPECT_EQ(rows, alone) << ranks << " ranks, " << rank;
      }
    });
  }
}

std::vector<std::string> Checkpoints() {
  return {"deepseek_v3_fp8", "gpt_oss_mxfp4", "qwen3_moe_sparse"};
}

INSTANTIATE_TEST_SUITE_P(Some, HostExpertsLogits,
                         testing::Combine(testing::ValuesIn(Checkpoints()),
                                          testing::ValuesIn(SimpleTableNames())),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(
    Some, HostExpertsBits,
    testing::Combine(testing::ValuesIn(Checkpoints()),
                     testing::ValuesIn(EmulatedAndCards("gpu_tensor_emulated"))),
    NameOf);

class HostExpertsOfF8Rows : public HostExpertsOf {};

TEST_P(HostExpertsOfF8Rows, GiveTheSameBitsInTwoMicroBatchesByNccl) {
  const std::vector<int32_t>& prompt = checkpoint_.prompts[0].ids;
  const std::vector<int32_t> tokens(prompt.begin(), prompt.begin() + 7);
  const auto logits = [&](int ranks, bool f8_rows, bool nccl) {
    GpuGroup group = Group(ranks, "bf16");
    group.f8_rows = f8_rows;
    group.nccl = nccl;
    RunnerOptions options = options_;
    options.micro_batch_rows = nccl ? 5 : 0;
    std::vector<float> rows;
    RunGpuGroup(group, options, [&](int rank, ModelRunner& runner) {
      std::vector<ModelRunner::Rows> own;
      if (rank == 0) own.push_back({.tokens = tokens});
      auto got = StepOrFail(runner, own);
      if (rank == 0) rows = std::move(got);
    });
    return rows;
  };
  const std::vector<float> alone = logits(1, true, false);
  EXPECT_NE(alone, logits(1, false, false)) << "without f8 rows";
  EXPECT_EQ(logits(2, true, true), alone);
}

INSTANTIATE_TEST_SUITE_P(Some, HostExpertsOfF8Rows,
                         testing::Combine(testing::Values("deepseek_v3_fp8"),
                                          testing::Values("gpu_emulated")),
                         NameOf);

std::string NumericsIdOf(const GpuGroup& group, int rank = 0) {
  const GpuRank gpu = MakeGpuRank(group.table, rank);
  const auto loaded = LoadOnGpu(group, gpu, rank, [](auto) { return size_t{1} << 20; });
  return loaded == nullptr ? "" : loaded->numerics_id();
}

TEST(HostExpertsNumerics, SayWhoComputesWhatAndNotOnHowManyRanks) {
  const golden::Checkpoint checkpoint = golden::Load("tiny_glm4_moe");
  const TempDir dir;
  const auto best = MakeCpuKernels("auto").value(), other = MakeReferenceKernels();
  GpuGroup group{.model_dir = checkpoint.dir, .table = "gpu_emulated"};
  const std::string without = NumericsIdOf(group);
  group.host_experts = {
      .count = 4, .hotness = {WriteCounts(checkpoint, dir)}, .kernels = best.get()};
  const std::string with = NumericsIdOf(group);
  EXPECT_NE(with, without);
  group.ranks = 2;
  group.host_experts.count = 2;
  EXPECT_EQ(NumericsIdOf(group, 0), with);
  EXPECT_EQ(NumericsIdOf(group, 1), with);
  group.host_experts.kernels = other.get();
  EXPECT_NE(NumericsIdOf(group), with) << "other kernels";
  group.host_experts.kernels = best.get();
  group.host_experts.hotness.clear();
  EXPECT_NE(NumericsIdOf(group), with) << "other experts";
  group.host_experts.count = 0;
  EXPECT_EQ(NumericsIdOf(group), without);
}

constexpr size_t kBeside = size_t{1} << 20;

StatusOr<std::shared_ptr<const LoadedModel>> LoadOn(Device* device, const HostExpertOptions& host,
                                                    const std::string& name, int ranks = 1) {
  LoadOptions options{
      .model_dir = golden::Dir(name), .dtype = "f32", .rank = 0, .num_ranks = ranks};
  options.device = device;
  options.beside_weights = [](auto) { return kBeside; };
  options.host_experts = host;
  int64_t last = 0, total = 0;
  options.progress = [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  auto loaded = LoadModel(options, *MakeGpuRank("gpu_emulated", 0).kernels);
  EXPECT_EQ(last, total);
  return loaded;
}

TEST(HostExpertsAuto, AreAsFewAsTheDeviceHasNoRoomFor) {
  const auto kernels = MakeCpuKernels("auto").value();
  const auto on_card = [&](uint64_t memory, int64_t count) {
    emulation::SetCardMemory(0, memory);
    const GpuRank gpu = MakeGpuRank("gpu_emulated", 0);
    auto loaded =
        LoadOn(gpu.device.get(), {.count = count, .kernels = kernels.get()}, "deepseek_v3_plain");
    emulation::SetCardMemory(0, 0);
    return loaded.ok() ? StatusOr<std::string>((*loaded)->numerics_id()) : loaded.status();
  };
  const auto whole = LoadModel({.model_dir = golden::Dir("deepseek_v3_plain")}, *kernels);
  const auto weights = static_cast<uint64_t>((*whole)->info().weight_bytes);
  // The driver's part, and most of what the weights take.
  const uint64_t memory = (uint64_t{256} << 20) + kBeside + weights * 3 / 4;
  const StatusOr<std::string> chosen = on_card(memory, HostExpertOptions::kWhatDoesNotFit);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  int64_t count = 0;
  StatusOr<std::string> by_number = on_card(memory, count);
  EXPECT_EQ(by_number.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(MessageOf(by_number.status()).find("or leave experts to the CPU"), std::string::npos);
  while (!by_number.ok() && count < 21) by_number = on_card(memory, ++count);
  ASSERT_TRUE(by_number.ok()) << by_number.status();
  EXPECT_EQ(*chosen, *by_number) << count;
  EXPECT_LT(count, 21) << "too little memory to show anything";
  const StatusOr<std::string> all = on_card(0, HostExpertOptions::kWhatDoesNotFit);
  EXPECT_EQ(all.value(), on_card(0, 0).value()) << "all fit";
}

TEST(HostExpertsErrors, NameTheOption) {
  const auto kernels = MakeCpuKernels("auto").value();
  const GpuRank gpu = MakeGpuRank("gpu_emulated", 0);
  const auto error = [&](int64_t count, const std::string& name) {
    return MessageOf(
        LoadOn(gpu.device.get(), {.count = count, .kernels = kernels.get()}, name, 2).status());
  };
  EXPECT_THAT(error(6, "tiny_glm4_moe"),
              testing::HasSubstr("cpu_experts 6 (--cpu-experts): of the 10 experts of a layer a "
                                 "rank of 2 holds 5; give 0 to 5, or auto"));
  EXPECT_THAT(error(1, "tiny_llama"), testing::HasSubstr("tiny_llama has no experts"));
}

}  // namespace
}  // namespace choir
