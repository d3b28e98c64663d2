// Logits of every checkpoint computed on a device: they are transformers', and their bits do not
// depend on chunks, company or ranks. On emulated cards everywhere, whose memory no host code may
// touch; on the GPU where there is one.
#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "tests/golden/golden.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "tests/support/local_group.h"

namespace choir {
namespace {

constexpr float kTolerance = 1e-4f;  // of the largest logit

using Row = std::vector<float>;

std::vector<Row> RowsOf(const std::vector<float>& logits, int32_t vocab) {
  std::vector<Row> rows;
  for (auto it = logits.begin(); it != logits.end(); it += vocab) rows.emplace_back(it, it + vocab);
  return rows;
}

// A checkpoint and a table of kernels.
using Param = std::tuple<std::string, std::string>;

std::string NameOf(const testing::TestParamInfo<Param>& info) {
  return std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
}

std::vector<std::string> SimpleTables() {
  std::vector<std::string> names = GpuTableNames();
  std::erase_if(names, [](const std::string& n) { return n.find("tensor") != std::string::npos; });
  return names;
}

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
                                          testing::ValuesIn(SimpleTables())),
                         NameOf);

// Of families with every kind of attention and experts; bf16, whose products are on tensor cores.
class DeviceBits : public DeviceLogits {
 protected:
  GpuGroup Group(int ranks) const {
    return {.model_dir = checkpoint_.dir,
            .dtype = "bf16",
            .table = std::get<1>(GetParam()),
            .ranks = ranks};
  }
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
  for (const int ranks : {2, 4}) {
    std::mutex mu;
    std::map<int, std::vector<Row>> rows;
    RunGpuGroup(Group(ranks), options_, [&](int rank, ModelRunner& runner) {
      // The last rank only helps with its experts.
      std::vector<ModelRunner::Rows> own;
      if (rank + 1 < ranks) own.push_back({.tokens = rank == 0 ? first_ : second_});
      auto got = RowsOf(StepOrFail(runner, own), checkpoint_.vocab);
      std::lock_guard lock(mu);
      rows[rank] = std::move(got);
    });
    EXPECT_EQ(rows[0], first) << ranks << " ranks";
    for (int r = 1; r + 1 < ranks; ++r) EXPECT_EQ(rows[r], second) << ranks << " ranks, " << r;
    EXPECT_TRUE(rows[ranks - 1].empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Some, DeviceBits,
                         testing::Combine(testing::Values("deepseek_v3_fp8", "gpt_oss_mxfp4",
                                                          "qwen3_moe_sparse", "tiny_llama"),
                                          testing::ValuesIn(GpuTableNames())),
                         NameOf);

}  // namespace
}  // namespace choir
