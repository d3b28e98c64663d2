// The whole engine on every golden checkpoint: greedy tokens are transformers', and tokens and
// logprobs are the same bits on any number of ranks, alone or in a batch, with any step budget,
// with preemption.
#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>

#include "tests/golden/golden.h"
#include "tools/choir/offline_engines.h"

namespace choir {
namespace {

constexpr int32_t kTokens = 64;
constexpr int64_t kBlockTokens = 8;

struct Manner {
  int ranks = 1;
  int threads = 1;
  int64_t step_tokens = 512;
  bool together = true;     // all prompts at once, else one after the other
  bool few_blocks = false;  // sequences wait for blocks and take them from each other
  double temperature = 0.0;
  std::string dtype = "f32";
};

struct Output {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  bool operator==(const Output&) const = default;
};

class Collector {
 public:
  void Take(const StepOutput& output) {
    std::lock_guard lock(mu_);
    for (const SequenceUpdate& u : output.updates) {
      Output& out = outputs_[u.id.value()];
      out.tokens.insert(out.tokens.end(), u.tokens.begin(), u.tokens.end());
      for (const TokenLogprob& l : u.logprobs) out.logprobs.push_back(l.logprob);
      if (u.finish == Finish::kNone) continue;
      EXPECT_EQ(u.finish, Finish::kLength) << u.error;
      ++ended_;
    }
    changed_.notify_all();
  }
  void Wait(size_t ended) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return ended_ >= ended; });
  }
  std::vector<Output> outputs() {
    std::vector<Output> all;
    for (const auto& [id, output] : outputs_) all.push_back(output);
    return all;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::map<uint64_t, Output> outputs_;
  size_t ended_ = 0;
};

std::vector<Output> Generate(const golden::Checkpoint& checkpoint, const Manner& setup) {
  OfflineModel model;
  model.kernels = std::move(MakeCpuKernels("auto")).value();
  model.loaded =
      LoadModel({.model_dir = checkpoint.dir, .dtype = setup.dtype}, *model.kernels).value();
  model.ranks = setup.ranks;
  model.threads_per_rank = setup.threads;
  EngineOptions options;
  options.step_tokens = setup.step_tokens;
  options.block_tokens = kBlockTokens;
  size_t longest = 0;
  for (const golden::Prompt& p : checkpoint.prompts) longest = std::max(longest, p.ids.size());
  options.kv_bytes = KvBytesFor(*model.loaded, setup.few_blocks ? 1 : 8,
                                static_cast<int64_t>(longest) + kTokens, kBlockTokens);
  Collector collector;
  auto engines = OfflineEngines::Start(model, options, [&](size_t) {
    return [&](const StepOutput& output) { collector.Take(output); };
  });
  CHOIR_CHECK(engines.ok());
  for (size_t i = 0; i < checkpoint.prompts.size(); ++i) {
    SequenceRequest request;
    request.id = SequenceId(i);
    request.tokens = checkpoint.prompts[i].ids;
    request.num_prompt = static_cast<int32_t>(request.tokens.size());
    request.max_tokens = kTokens;
    request.sampling.temperature = setup.temperature;
    request.sampling.seed = 7 + i;
    request.sampling.num_logprobs = 0;
    CHOIR_CHECK((*engines)->rank(i % (*engines)->size()).Submit(std::move(request)).ok());
    if (!setup.together) collector.Wait(i + 1);
  }
  collector.Wait(checkpoint.prompts.size());
  engines->reset();
  return collector.outputs();
}

class EngineGoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(EngineGoldenTest, GivesTransformersGreedyTokens) {
  const golden::Checkpoint checkpoint = golden::Load(GetParam());
  const std::vector<Output> outputs = Generate(checkpoint, {});
  ASSERT_EQ(outputs.size(), checkpoint.prompts.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(outputs[i].tokens, checkpoint.prompts[i].greedy) << "prompt " << i;
  }
}

TEST_P(EngineGoldenTest, GivesTheSameBitsHoweverItIsRun) {
  const golden::Checkpoint checkpoint = golden::Load(GetParam());
  for (const char* dtype : {"f32", "bf16"}) {
    const Manner plain = {.together = false, .temperature = 0.9, .dtype = dtype};
    const std::vector<Output> expected = Generate(checkpoint, plain);
    Manner batch = plain;
    batch.together = true;
    EXPECT_EQ(Generate(checkpoint, batch), expected) << dtype << ", in a batch";
    Manner chunks = batch;
    chunks.step_tokens = 5;
    chunks.threads = 2;
    EXPECT_EQ(Generate(checkpoint, chunks), expected) << dtype << ", in small chunks";
    Manner tight = batch;
    tight.few_blocks = true;
    EXPECT_EQ(Generate(checkpoint, tight), expected) << dtype << ", with preemption";
    for (const int ranks : {2, 3, 4}) {
      Manner group = batch;
      group.ranks = ranks;
      EXPECT_EQ(Generate(checkpoint, group), expected) << dtype << ", on " << ranks << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, EngineGoldenTest, testing::ValuesIn(golden::Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace choir
