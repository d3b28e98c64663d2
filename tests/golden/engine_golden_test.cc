// The whole engine on every golden checkpoint: greedy tokens are transformers', and tokens and
// logprobs are the same bits on any number of ranks, alone or in a batch, with any step budget,
// with preemption, and with whatever part of a prompt in the prefix cache.
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
constexpr int32_t kCut = 41;

struct Manner {
  int ranks = 1;
  int threads = 1;
  int64_t step_tokens = 512;
  bool together = true;     // all prompts at once, else one after the other
  bool few_blocks = false;  // sequences wait for blocks and take them from each other
  bool prefix_cache = false;
  int rounds = 1;       // all prompts so many times; the last round's outputs count
  bool turns = false;   // each round's prompts are a next turn: the last one's and its answer first
  bool replay = false;  // later rounds replay the first, cut after kCut tokens
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
    for (const SequenceOutput& u : output.updates) {
      Output& out = outputs_[u.id.value()];
      out.tokens.insert(out.tokens.end(), u.tokens.begin(), u.tokens.end());
      for (const SampledLogprob& l : u.logprobs) out.logprobs.push_back(l.logprob);
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
  std::vector<Output> outputs(uint64_t from_id) {
    std::vector<Output> all;
    for (const auto& [id, output] : outputs_) {
      if (id >= from_id) all.push_back(output);
    }
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
  options.prefix_cache = setup.prefix_cache;
  size_t longest = 0;
  for (const golden::Prompt& p : checkpoint.prompts) longest = std::max(longest, p.ids.size());
  options.kv_bytes =
      KvBytesFor(*model.loaded, setup.few_blocks ? 1 : 8,
                 (static_cast<int64_t>(longest) + kTokens) * (setup.turns ? 2 : 1), kBlockTokens);
  Collector collector;
  auto engines = OfflineEngines::Start(model, options, [&](size_t) {
    return [&](const StepOutput& output) { collector.Take(output); };
  });
  CHOIR_CHECK(engines.ok());
  const size_t count = checkpoint.prompts.size();
  std::vector<std::vector<int32_t>> prompts(count);
  for (size_t id = 0; id < count * static_cast<size_t>(setup.rounds); ++id) {
    const size_t i = id % count;
    SequenceRequest request;
    request.id = SequenceId(id);
    const std::vector<int32_t>& ids = checkpoint.prompts[i].ids;
    if (setup.turns && id >= count) {
      const std::vector<int32_t> answer = collector.outputs(id - count).at(0).tokens;
      prompts[i].insert(prompts[i].end(), answer.begin(), answer.end());
      prompts[i].insert(prompts[i].end(), ids.begin(), ids.end());
    } else {
      prompts[i] = ids;
    }
    request.tokens = prompts[i];
    request.num_prompt = static_cast<int32_t>(request.tokens.size());
    if (setup.replay && id >= count) {
      const std::vector<int32_t> answer = collector.outputs(id - count).at(0).tokens;
      request.tokens.insert(request.tokens.end(), answer.begin(), answer.begin() + kCut);
    }
    request.max_tokens = kTokens;
    request.sampling.temperature = setup.temperature;
    request.sampling.seed = 7 + i;
    request.sampling.num_logprobs = 0;
    CHOIR_CHECK((*engines)->rank(i % (*engines)->size()).Submit(std::move(request)).ok());
    if (!setup.together) collector.Wait(id + 1);
    if (i + 1 == count) collector.Wait(id + 1);
  }
  uint64_t hits = 0;
  for (size_t r = 0; r < (*engines)->size(); ++r) {
    hits += (*engines)->rank(r).stats().prefix_hit_tokens;
  }
  engines->reset();
  EXPECT_EQ(hits > 0, setup.prefix_cache && setup.rounds > 1);
  return collector.outputs(count * static_cast<size_t>(setup.rounds - 1));
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

TEST_P(EngineGoldenTest, AHitInThePrefixCacheChangesNoBit) {
  const golden::Checkpoint checkpoint = golden::Load(GetParam());
  for (const char* dtype : {"f32", "bf16"}) {
    const Manner plain = {.together = false, .temperature = 0.9, .dtype = dtype};
    const std::vector<Output> expected = Generate(checkpoint, plain);
    Manner again = plain;
    again.prefix_cache = true;
    again.rounds = 2;
    EXPECT_EQ(Generate(checkpoint, again), expected) << dtype << ", one after the other";
    Manner chunks = again;
    chunks.together = true;
    chunks.step_tokens = 5;
    chunks.threads = 2;
    EXPECT_EQ(Generate(checkpoint, chunks), expected) << dtype << ", in small chunks";
    Manner tight = again;
    tight.together = true;
    tight.few_blocks = true;
    tight.rounds = 3;
    EXPECT_EQ(Generate(checkpoint, tight), expected) << dtype << ", with preemption and eviction";
    // Blocks that an answer left behind are a prompt's in the next turn: roles change no bit.
    Manner turn = plain;
    turn.rounds = 2;
    turn.turns = true;
    const std::vector<Output> next = Generate(checkpoint, turn);
    turn.prefix_cache = true;
    EXPECT_EQ(Generate(checkpoint, turn), next) << dtype << ", in a next turn";
    std::vector<Output> rest = expected;
    for (Output& output : rest) {
      output.tokens.erase(output.tokens.begin(), output.tokens.begin() + kCut);
      output.logprobs.erase(output.logprobs.begin(), output.logprobs.begin() + kCut);
    }
    Manner replay = plain;
    replay.rounds = 2;
    replay.replay = true;
    for (const bool prefix_cache : {false, true}) {
      replay.prefix_cache = prefix_cache;
      EXPECT_EQ(Generate(checkpoint, replay), rest) << dtype << ", replayed, " << prefix_cache;
    }
    for (const int ranks : {2, 3}) {
      Manner group = again;
      group.together = true;
      group.ranks = ranks;
      EXPECT_EQ(Generate(checkpoint, group), expected) << dtype << ", on " << ranks << " ranks";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, EngineGoldenTest, testing::ValuesIn(golden::Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace choir
