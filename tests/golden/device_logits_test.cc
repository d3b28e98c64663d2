// Logits of every checkpoint computed on a device: they are transformers', and their bits do not
// depend on chunks, company or ranks. On emulated cards everywhere, whose memory no host code may
// touch; on the GPU where there is one.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <tuple>

#include "tests/golden/golden.h"
#include "tests/golden/logit_rows.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "tests/support/local_group.h"

namespace choir {
namespace {

using testing::HasSubstr;

constexpr float kTolerance = 1e-4f;  // of the largest logit

using golden::NameOf;
using golden::Row;
using golden::RowsOf;
using Param = golden::OnTable;

class DeviceLogits : public testing::TestWithParam<Param> {
 protected:
  const golden::Checkpoint checkpoint_ = golden::Load(std::get<0>(GetParam()));
};

TEST_P(DeviceLogits, AreThoseOfTransformers) {
  const GpuGroup alone{.model_dir = checkpoint_.dir, .table = std::get<1>(GetParam())};
  RunGpuGroup(alone, {.positions_max = 256}, [&](int, ModelRunner& runner) {
    for (const golden::Prompt& prompt : checkpoint_.prompts) {
      const auto rows = RowsOf(StepOrFail(runner, {{.tokens = prompt.ids}}), checkpoint_.vocab);
      ASSERT_EQ(rows.size(), prompt.ids.size());
      for (size_t i = 0; i < prompt.positions.size(); ++i) {
        EXPECT_LT(
            golden::RelativeError(rows[static_cast<size_t>(prompt.positions[i])], prompt.logits[i]),
            kTolerance)
            << checkpoint_.name << " position " << prompt.positions[i];
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, DeviceLogits,
                         testing::Combine(testing::ValuesIn(golden::Names()),
                                          testing::ValuesIn(SimpleTableNames())),
                         NameOf);

// Of families with every kind of attention and experts; bf16, whose products are on tensor cores.
class DeviceBits : public DeviceLogits {
 protected:
  GpuGroup Group(int ranks, bool nccl = false) const {
    return {.model_dir = checkpoint_.dir,
            .dtype = "bf16",
            .table = std::get<1>(GetParam()),
            .ranks = ranks,
            .nccl = nccl};
  }
  bool emulated() const { return std::get<1>(GetParam()).ends_with("_emulated"); }
  static std::vector<int32_t> Head(const golden::Prompt& prompt) {
    return {prompt.ids.begin(),
            prompt.ids.begin() + static_cast<int64_t>(std::min<size_t>(prompt.ids.size(), 11))};
  }
  std::vector<Row> Alone(const std::vector<int32_t>& tokens) const {
    std::vector<Row> rows;
    RunGpuGroup(Group(1), options_, [&](int, ModelRunner& runner) {
      rows = RowsOf(StepOrFail(runner, {{.tokens = tokens}}), checkpoint_.vocab);
    });
    return rows;
  }

  const std::vector<int32_t> first_ = Head(checkpoint_.prompts[0]),
                             second_ = Head(checkpoint_.prompts[1]);
  const RunnerOptions options_{
      .step_tokens = 32, .positions_max = 64, .block_tokens = 8, .sequences = 3};
};

TEST_P(DeviceBits, DoNotDependOnChunksOrCompany) {
  const std::vector<Row> first = Alone(first_), second = Alone(second_);
  RunGpuGroup(Group(1), options_, [&](int, ModelRunner& runner) {
    const size_t head = 3;
    const auto begin =
        RowsOf(StepOrFail(runner, {{.sequence = 1, .tokens = std::span(first_).first(head)}}),
               checkpoint_.vocab);
    // The rest of the first between two copies of the second.
    const auto rows = RowsOf(StepOrFail(runner, {{.sequence = 2, .tokens = second_},
                                                 {.sequence = 1,
                                                  .tokens = std::span(first_).subspan(head),
                                                  .first_position = static_cast<int32_t>(head)},
                                                 {.sequence = 0, .tokens = second_}}),
                             checkpoint_.vocab);
    for (size_t i = 0; i < head; ++i) EXPECT_EQ(begin[i], first[i]);
    for (size_t i = head; i < first.size(); ++i) {
      EXPECT_EQ(rows[second.size() + i - head], first[i]) << i;
    }
    for (size_t i = 0; i < second.size(); ++i) {
      EXPECT_EQ(rows[i], second[i]);
      EXPECT_EQ(rows[second.size() + first.size() - head + i], second[i]);
    }
  });
}

TEST_P(DeviceBits, DoNotDependOnRanks) {
  const std::vector<Row> first = Alone(first_), second = Alone(second_);
  struct Form {
    int ranks;
    bool nccl;
    int64_t slot_rows, micro_batch_rows;
    uint64_t slot_output_bytes = 0;
  };
  for (const auto& [ranks, nccl, slot_rows, micro_batch_rows, slot_output_bytes] :
       {Form{2, false, 0, 0},
        {4, false, 0, 0},
        {2, true, 0, 0},
        {4, true, 0, 0},
        {2, true, 32, 0},
        {2, true, 0, 11},
        {3, true, 2, 3},
        {2, true, 32, 0, 1 << 20},
        {4, true, 32, 0, 1 << 20}}) {
    if (nccl && !emulated()) continue;
    RunnerOptions options = options_;
    options.slots = {.rows = slot_rows, .output_bytes = slot_output_bytes};
    options.micro_batch_rows = micro_batch_rows;
    std::mutex mu;
    std::map<int, std::vector<Row>> rows;
    RunGpuGroup(Group(ranks, nccl), options, [&, ranks = ranks](int rank, ModelRunner& runner) {
      // The last rank only helps with its experts.
      std::vector<ModelRunner::Rows> own;
      if (rank + 1 < ranks) own.push_back({.tokens = rank == 0 ? first_ : second_});
      auto got = RowsOf(StepOrFail(runner, own), checkpoint_.vocab);
      std::lock_guard lock(mu);
      rows[rank] = std::move(got);
    });
    EXPECT_EQ(rows[0], first) << ranks << " ranks" << (micro_batch_rows > 0 ? ", two parts" : "");
    for (int r = 1; r + 1 < ranks; ++r) EXPECT_EQ(rows[r], second) << ranks << " ranks, " << r;
    EXPECT_TRUE(rows[ranks - 1].empty());
  }
}

// Of the host for the card in one step of two ranks, the first of which has three rows.
int64_t WaitsOfAStep(const std::string& table, const SlotOptions& slots) {
  const golden::Checkpoint checkpoint = golden::Load("deepseek_v3_plain");
  const GpuGroup group{
      .model_dir = checkpoint.dir, .dtype = "bf16", .table = table, .ranks = 2, .nccl = true};
  const RunnerOptions options{.step_tokens = 32, .positions_max = 64, .slots = slots};
  std::atomic<int64_t> waits = 0;
  RunGpuGroup(group, options, [&](int rank, ModelRunner& runner) {
    std::vector<ModelRunner::Rows> own;
    if (rank == 0) own.push_back({.tokens = std::span(checkpoint.prompts[0].ids).first(3)});
    StepOrFail(runner, own);
    const int64_t before = emulation::WaitsOf(rank);
    StepOrFail(runner, own);
    if (rank == 0) waits = emulation::WaitsOf(rank) - before;
  });
  return waits;
}

TEST(StepsInSlots, WaitForNoHostBetweenTheirLayersWhereOutputsFitToo) {
  EXPECT_GT(WaitsOfAStep("gpu_emulated", {.rows = 3}), 1) << "one a layer with experts";
  EXPECT_EQ(WaitsOfAStep("gpu_emulated", {.rows = 3, .output_bytes = 1 << 20}), 1);
  EXPECT_GT(WaitsOfAStep("gpu_emulated", {.rows = 2, .output_bytes = 1 << 20}), 1) << "more rows";
}

// Rows of experts as f8: other bits than without, the same on any number of ranks and any way.
class F8Rows : public DeviceBits {};

TEST_P(F8Rows, DoNotDependOnRanksOrTheWayTheyTravel) {
  const std::vector<int32_t> tokens(first_.begin(), first_.begin() + 7);
  const auto logits = [&](GpuGroup group, SlotOptions slots, int64_t micro_batch_rows = 0) {
    group.model_dir = checkpoint_.dir;
    group.dtype = "bf16";
    group.table = std::get<1>(GetParam());
    std::vector<float> rows;
    std::string id;
    const RunnerOptions options{.step_tokens = 32,
                                .positions_max = 64,
                                .slots = slots,
                                .micro_batch_rows = micro_batch_rows};
    RunGpuGroup(group, options, [&](int rank, ModelRunner& runner) {
      std::vector<ModelRunner::Rows> own;
      if (rank == 0) own.push_back({.tokens = tokens});
      const std::vector<float> got = StepOrFail(runner, own);
      if (rank == 0) {
        rows = got;
        id = runner.model().loaded().numerics_id();
      }
    });
    return std::pair(rows, id);
  };
  const auto plain = logits({}, {}), alone = logits({.f8_rows = true}, {});
  EXPECT_NE(alone.first, plain.first);
  EXPECT_NE(alone.second, plain.second) << "the numerics id";
  EXPECT_LT(golden::RelativeError(alone.first, plain.first), 0.2f);
  EXPECT_EQ(logits({.ranks = 2, .f8_rows = true}, {}), alone) << "by the hosts";
  if (!emulated()) return;
  EXPECT_EQ(logits({.ranks = 2, .f8_rows = true, .nccl = true}, {}), alone) << "by NCCL";
  EXPECT_EQ(logits({.ranks = 2, .f8_rows = true, .nccl = true}, {}, 7), alone) << "in two parts";
  EXPECT_EQ(logits({.ranks = 3, .f8_rows = true, .nccl = true}, {8}), alone) << "in slots";
  EXPECT_EQ(logits({.ranks = 3, .f8_rows = true, .nccl = true}, {8, 1 << 20}), alone)
      << "planned by the cards";
}

TEST(F8RowsOf, ModelsThatCannotHaveThemAreRefused) {
  const GpuRank gpu = MakeGpuRank("gpu_emulated", 0);
  const auto refusal = [&](const char* checkpoint, const char* dtype) {
    LoadOptions options{.model_dir = golden::Dir(checkpoint), .dtype = dtype, .f8_rows = true};
    options.device = gpu.device.get();
    return MessageOf(LoadModel(options, *gpu.kernels).status());
  };
  EXPECT_THAT(refusal("deepseek_v3_fp8", "f32"), HasSubstr("give dtype bf16, or leave it out"));
  EXPECT_THAT(refusal("deepseek_v3_plain", "bf16"), HasSubstr("its experts are not f8"));
}

INSTANTIATE_TEST_SUITE_P(Some, F8Rows,
                         testing::Combine(testing::Values("deepseek_v3_fp8"),
                                          testing::ValuesIn(EmulatedAndCards("gpu_emulated"))),
                         NameOf);

INSTANTIATE_TEST_SUITE_P(Some, DeviceBits,
                         testing::Combine(testing::Values("deepseek_v3_fp8", "gpt_oss_mxfp4",
                                                          "qwen3_moe_sparse", "tiny_llama"),
                                          testing::ValuesIn(GpuTableNames())),
                         NameOf);

}  // namespace
}  // namespace choir
