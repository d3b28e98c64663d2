// Logits and greedy tokens of every checkpoint against transformers, in FP32.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "tests/golden/golden.h"
#include "tests/support/local_group.h"

namespace choir {
namespace {

constexpr float kTolerance = 1e-4f;  // of the largest logit

// A checkpoint and a kernel set: "reference" or a CPU path. On devices: device_logits_test.cc.
using Param = std::tuple<std::string, std::string>;

std::unique_ptr<KernelSet> KernelsOf(const std::string& name) {
  if (name == "reference") return MakeReferenceKernels();
  auto kernels = MakeCpuKernels(name);
  EXPECT_TRUE(kernels.ok()) << kernels.status();
  return std::move(kernels).value();
}

std::vector<std::string> KernelNames() {
  std::vector<std::string> names = CpuPaths();
  names.push_back("reference");
  return names;
}

std::string NameOf(const testing::TestParamInfo<Param>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class GoldenLogits : public testing::TestWithParam<Param> {
 protected:
  const golden::Checkpoint checkpoint_ = golden::Load(std::get<0>(GetParam()));
  const std::unique_ptr<KernelSet> kernels_ = KernelsOf(std::get<1>(GetParam()));
  const std::shared_ptr<const LoadedModel> loaded_ = LoadOrFail(checkpoint_.dir, "f32", *kernels_);
};

TEST_P(GoldenLogits, AreThoseOfTransformers) {
  const auto vocab = static_cast<size_t>(checkpoint_.vocab);
  RunGroup(loaded_, *kernels_, 1, {.positions_max = 256}, [&](int, ModelRunner& runner) {
    for (const golden::Prompt& prompt : checkpoint_.prompts) {
      const std::vector<float> logits = StepOrFail(runner, {{.tokens = prompt.ids}});
      ASSERT_EQ(logits.size(), prompt.ids.size() * vocab);
      for (size_t i = 0; i < prompt.positions.size(); ++i) {
        const auto begin = logits.begin() + prompt.positions[i] * static_cast<int64_t>(vocab);
        const std::vector<float> row(begin, begin + static_cast<int64_t>(vocab));
        EXPECT_LT(golden::RelativeError(row, prompt.logits[i]), kTolerance)
            << checkpoint_.name << " position " << prompt.positions[i];
      }
    }
  });
}

TEST_P(GoldenLogits, LeadToTheTokensOfTransformers) {
  const auto vocab = static_cast<int64_t>(checkpoint_.vocab);
  RunGroup(loaded_, *kernels_, 1, {.positions_max = 256}, [&](int, ModelRunner& runner) {
    for (const golden::Prompt& prompt : checkpoint_.prompts) {
      std::vector<int32_t> input = prompt.ids, output;
      int32_t position = 0;
      while (output.size() < prompt.greedy.size()) {
        const std::vector<float> logits =
            StepOrFail(runner, {{.tokens = input, .first_position = position}});
        ASSERT_FALSE(logits.empty());
        position += static_cast<int32_t>(input.size());
        const auto last = logits.end() - vocab;
        output.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
        input = {output.back()};
      }
      EXPECT_EQ(output, prompt.greedy) << checkpoint_.name;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, GoldenLogits,
                         testing::Combine(testing::ValuesIn(golden::Names()),
                                          testing::ValuesIn(KernelNames())),
                         NameOf);

}  // namespace
}  // namespace choir
