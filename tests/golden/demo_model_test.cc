// The default model against what transformers computes from it (demo_expected.json). Skipped where
// it has not been made; `choir model demo` makes it.
#include "tools/model/demo_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>

#include "common/base/clock.h"
#include "router/text/chat_template.h"
#include "router/text/tokenizer.h"
#include "tests/support/local_group.h"

namespace choir {
namespace {

using Ids = std::vector<int32_t>;

// CHOIR_DEMO_MODEL, else the cached one; "" when there is none.
std::string DemoModel() {
  std::string directory;
  if (const char* given = std::getenv("CHOIR_DEMO_MODEL"); given != nullptr) {
    directory = given;
  } else if (const auto cached = DemoDirectory({}); cached.ok()) {
    directory = *cached;
  }
  return CheckDemoModel(directory, {}).ok() ? directory : "";
}

class DemoModelGolden : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = DemoModel();
    if (directory_.empty()) GTEST_SKIP() << "no default model here; choir model demo makes it";
    std::ifstream file(CHOIR_SOURCE_DIR "/tests/golden/demo_expected.json");
    expected_ = nlohmann::json::parse(file);
    auto kernels = MakeCpuKernels("auto");
    ASSERT_TRUE(kernels.ok()) << kernels.status();
    kernels_ = std::move(kernels).value();
  }

  Ids Prompt(size_t question) const { return expected_["questions"][question]["prompt_ids"]; }
  Ids Answer(size_t question) const { return expected_["questions"][question]["output_ids"]; }

  std::string directory_;
  nlohmann::json expected_;
  std::unique_ptr<KernelSet> kernels_;
};

int32_t Best(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST_F(DemoModelGolden, LogitsAndExpertCountsAreTransformers) {
  const nlohmann::json& detail = expected_["detail"];
  const Ids prompt = Prompt(detail["question"]);
  const auto loaded = LoadOrFail(directory_, "f32", *kernels_);
  std::mutex mutex;
  std::vector<uint64_t> counts(32);  // guarded by mutex; over all ranks
  const RunnerOptions options{.step_tokens = 64, .positions_max = 64, .sequences = 1};
  RunGroup(loaded, *kernels_, 2, options, [&](int rank, ModelRunner& runner) {
    std::vector<ModelRunner::Rows> rows;
    if (rank == 0) rows.push_back({.tokens = prompt});
    const std::vector<float> logits = StepOrFail(runner, rows);
    {
      const std::lock_guard lock(mutex);
      const std::vector<uint64_t>& own = runner.model().expert_counts().rows;
      for (size_t i = 0; i < own.size(); ++i) counts[i % counts.size()] += own[i];
    }
    if (rank != 0) return;
    const size_t last = logits.size() - 49152;
    const float largest = detail["largest"];
    for (size_t i = 0; i < detail["logit_ids"].size(); ++i) {
      const auto id = detail["logit_ids"][i].get<size_t>();
      EXPECT_NEAR(logits[last + id], detail["logits"][i].get<float>(), 2e-5f * largest) << id;
    }
  });
  std::vector<uint64_t> want(32);
  for (const auto& layer : detail["expert_counts"]) {
    for (size_t e = 0; e < want.size(); ++e) want[e] += layer["tokens"][e].get<uint64_t>();
  }
  EXPECT_EQ(counts, want);
}

TEST_F(DemoModelGolden, AnswersTheTenQuestionsTokenForToken) {
  const auto loaded = LoadOrFail(directory_, "auto", *kernels_);
  const size_t num = expected_["questions"].size();
  size_t longest = 0;
  for (size_t q = 0; q < num; ++q) longest = std::max(longest, Answer(q).size());
  std::vector<Ids> answers(num);
  const RunnerOptions options{
      .step_tokens = 64, .positions_max = 128, .sequences = static_cast<int>(num)};
  // Rank 0 has all sequences; rank 1 computes its half of the experts.
  RunGroup(loaded, *kernels_, 2, options, [&](int rank, ModelRunner& runner) {
    for (size_t q = 0; q < num; ++q) {
      const Ids prompt = Prompt(q);
      std::vector<ModelRunner::Rows> rows;
      if (rank == 0) rows.push_back({.sequence = static_cast<int>(q), .tokens = prompt});
      const std::vector<float> logits = StepOrFail(runner, rows);
      if (rank == 0) answers[q].push_back(Best(std::span(logits).last(49152)));
    }
    for (size_t step = 1; step < longest; ++step) {
      std::vector<ModelRunner::Rows> rows;
      for (size_t q = 0; q < num && rank == 0; ++q) {
        if (answers[q].size() >= Answer(q).size()) continue;
        rows.push_back(
            {.sequence = static_cast<int>(q),
             .tokens = std::span(answers[q]).last(1),
             .first_position = static_cast<int32_t>(Prompt(q).size() + answers[q].size() - 1)});
      }
      const std::vector<float> logits = StepOrFail(runner, rows);
      for (size_t r = 0; r < rows.size(); ++r) {
        answers[static_cast<size_t>(rows[r].sequence)].push_back(
            Best(std::span(logits).subspan(r * 49152, 49152)));
      }
    }
  });
  for (size_t q = 0; q < num; ++q) {
    EXPECT_EQ(answers[q], Answer(q)) << expected_["questions"][q]["question"];
  }
}

TEST_F(DemoModelGolden, QuestionsBecomeTheirTokensAndAnswersTheirText) {
  const auto tokenizer = Tokenizer::Load(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto chat_template = ChatTemplate::Load(directory_);
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  for (const nlohmann::json& q : expected_["questions"]) {
    const nlohmann::ordered_json message = {{"role", "user"}, {"content", q["question"]}};
    const nlohmann::ordered_json request = {{"messages", nlohmann::ordered_json::array({message})},
                                            {"add_generation_prompt", true}};
    const auto prompt = (*chat_template)->Render(request, Clock::Real(), {});
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, q["prompt"].get<std::string>());
    EXPECT_EQ(*(*tokenizer)->Encode(*prompt, false), q["prompt_ids"].get<Ids>());
    EXPECT_EQ(*(*tokenizer)->Decode(q["output_ids"].get<Ids>(), true),
              q["text"].get<std::string>());
  }
}

}  // namespace
}  // namespace choir
