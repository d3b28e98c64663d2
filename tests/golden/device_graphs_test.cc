// Steps on a device alone: decode steps as graphs have the bits of those that are not, padded as
// they are, and the host waits once a step.
#include <gtest/gtest.h>

#include <mutex>
#include <tuple>

#include "tests/golden/golden.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "tests/support/local_group.h"

namespace choir {
namespace {

using Logits = std::vector<float>;

struct RunResult {
  std::vector<Logits> steps;
  GraphStats graphs;
  std::vector<uint64_t> expert_rows;  // of all ranks
  int64_t waits = 0;
};

// One step: a sequence and how many of its next tokens, in the order of the rows.
using Plan = std::vector<std::pair<int, int>>;

// Prefills, decodes of changing company, and chunks between them.
const std::vector<Plan>& Plans() {
  static const std::vector<Plan> plans = {
      {{0, 5}, {1, 1}},                  // mixed
      {{0, 1}, {1, 1}},                  // bucket of 2: as it is
      {{1, 1}, {0, 1}},                  // recorded
      {{2, 7}, {0, 1}},                  // chunk beside a decode
      {{1, 1}, {2, 1}},                  // the graph, other sequences
      {{0, 1}, {1, 1}, {2, 1}},          // bucket of 4, a row of padding
      {{2, 1}, {0, 1}, {1, 1}},          // recorded
      {{0, 1}, {1, 1}, {2, 1}, {3, 1}},  // the graph without padding
      {{3, 1}, {2, 1}, {1, 1}},          // and with
      {{3, 1}},
      {{3, 1}},
      {{3, 1}},
      {{0, 1}, {2, 1}},
  };
  return plans;
}

// The plan's rows, with tokens that depend on sequence and position only.
struct StepRows {
  StepRows(const Plan& plan, int32_t vocab, std::vector<int32_t>* reached) : tokens(plan.size()) {
    for (size_t i = 0; i < plan.size(); ++i) {
      const auto [sequence, count] = plan[i];
      int32_t& at = (*reached)[static_cast<size_t>(sequence)];
      for (int32_t p = at; p < at + count; ++p) {
        tokens[i].push_back((7 * sequence + 13 * p + 3) % vocab);
      }
      rows.push_back({.sequence = sequence, .tokens = tokens[i], .first_position = at});
      at += count;
    }
  }
  std::vector<std::vector<int32_t>> tokens;
  std::vector<ModelRunner::Rows> rows;
};

// Who has rows of its own: rank 0, while the others help, or each of them the same.
enum class Own : uint8_t { kFirst, kAll };

RunResult RunPlans(const GpuGroup& group, int32_t vocab, int64_t graph_rows,
                   const SlotOptions& slots = {}, Own own = Own::kFirst) {
  RunResult result;
  std::mutex mu;
  const RunnerOptions options{.step_tokens = 12,
                              .positions_max = 64,
                              .block_tokens = 4,
                              .sequences = 4,
                              .graph_rows_max = graph_rows,
                              .slots = slots};
  RunGpuGroup(group, options, [&](int rank, ModelRunner& runner) {
    std::vector<int32_t> reached(4, 0);
    const int64_t waits = emulation::WaitsOf(0);
    for (const Plan& plan : Plans()) {
      const StepRows step(plan, vocab, &reached);
      const bool helps = rank > 0 && own == Own::kFirst;
      Logits logits = StepOrFail(runner, helps ? std::vector<ModelRunner::Rows>() : step.rows);
      if (rank == 0) result.steps.push_back(std::move(logits));
    }
    if (rank == 0) {
      result.waits = emulation::WaitsOf(0) - waits;
      result.graphs = runner.model().graphs();
    }
    const std::vector<uint64_t>& rows = runner.model().expert_counts().rows;
    std::lock_guard lock(mu);
    result.expert_rows.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) result.expert_rows[i] += rows[i];
  });
  return result;
}

class DeviceGraphs : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  const golden::Checkpoint checkpoint_ = golden::Load(std::get<0>(GetParam()));
  const GpuGroup group_{
      .model_dir = checkpoint_.dir, .dtype = "bf16", .table = std::get<1>(GetParam())};
};

TEST_P(DeviceGraphs, AreBitForBitTheStepsThatTheyReplace) {
  const RunResult plain = RunPlans(group_, checkpoint_.vocab, 0);
  const RunResult graphs = RunPlans(group_, checkpoint_.vocab, 8);
  EXPECT_EQ(plain.graphs.captures, 0u);
  EXPECT_EQ(graphs.graphs.captures, 3u) << "buckets of 1, 2 and 4";
  EXPECT_EQ(graphs.graphs.replays, 8u);
  ASSERT_EQ(plain.steps.size(), graphs.steps.size());
  for (size_t i = 0; i < plain.steps.size(); ++i) EXPECT_EQ(graphs.steps[i], plain.steps[i]) << i;
  EXPECT_EQ(graphs.expert_rows, plain.expert_rows);
  if (!group_.table.ends_with("_emulated")) return;  // others count no waits
  EXPECT_EQ(plain.waits, static_cast<int64_t>(Plans().size())) << "one a step";
  EXPECT_EQ(graphs.waits, static_cast<int64_t>(Plans().size())) << "one a step";
}

// Two ranks exchange rows as the host plans it; a rank alone orders them on its device.
TEST(DeviceExperts, ThatAreAllHereHaveTheBitsAndCountsOfThoseThatAreShared) {
  const golden::Checkpoint checkpoint = golden::Load("deepseek_v3_plain");
  GpuGroup group{.model_dir = checkpoint.dir, .dtype = "bf16", .table = GpuTableNames().front()};
  const RunResult alone = RunPlans(group, checkpoint.vocab, 0);
  group.ranks = 2;
  const RunResult shared = RunPlans(group, checkpoint.vocab, 0);
  EXPECT_EQ(shared.steps, alone.steps);
  EXPECT_EQ(shared.expert_rows, alone.expert_rows);
}

// Each rank's rows planned by its card, with rows of the others or beside ranks that only help.
TEST(DeviceExperts, ThatEveryCardPlansForItselfHaveTheBitsAndCountsOfARankAlone) {
  if (!GpuTableNames().back().ends_with("_emulated")) GTEST_SKIP() << "one card";
  const golden::Checkpoint checkpoint = golden::Load("deepseek_v3_fp8");
  for (const char* table : {"gpu_emulated", "gpu_tensor_emulated"}) {
    GpuGroup group{.model_dir = checkpoint.dir, .dtype = "bf16", .table = table};
    const RunResult alone = RunPlans(group, checkpoint.vocab, 0);
    group.nccl = true;
    for (const auto& [ranks, own] : {std::pair(2, Own::kFirst), {2, Own::kAll}, {3, Own::kAll}}) {
      SCOPED_TRACE(fmt::format("{} ranks of {}, {}", ranks, table, own == Own::kAll));
      group.ranks = ranks;
      const SlotOptions slots{.rows = 8, .output_bytes = 1 << 20};
      const RunResult planned = RunPlans(group, checkpoint.vocab, 8, slots, own);
      EXPECT_EQ(planned.steps, alone.steps);
      EXPECT_EQ(planned.waits, static_cast<int64_t>(Plans().size())) << "one a step";
      EXPECT_EQ(planned.graphs.captures, 0u) << "NCCL wants them on all ranks or on none";
      std::vector<uint64_t> rows = alone.expert_rows;
      for (uint64_t& count : rows) count *= own == Own::kAll ? static_cast<uint64_t>(ranks) : 1;
      EXPECT_EQ(planned.expert_rows, rows);
    }
  }
}

// Tensor cores where they are emulated cost the most: one family is enough there.
std::vector<std::tuple<std::string, std::string>> Params() {
  const std::vector<std::string> tables = GpuTableNames();
  std::vector<std::tuple<std::string, std::string>> params = {
      {"deepseek_v3_fp8", "gpu_tensor_emulated"},
      {"gpt_oss_mxfp4", "gpu_emulated"},
      {"tiny_llama", "gpu_emulated"}};
  for (const char* name : {"deepseek_v3_fp8", "gpt_oss_mxfp4", "tiny_llama"}) {
    if (!tables.back().ends_with("_emulated")) params.emplace_back(name, tables.back());
  }
  return params;
}

INSTANTIATE_TEST_SUITE_P(Some, DeviceGraphs, testing::ValuesIn(Params()), [](const auto& info) {
  return std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
});

}  // namespace
}  // namespace choir
