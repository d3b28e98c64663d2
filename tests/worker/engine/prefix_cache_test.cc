// The prefix cache in a whole engine. The fake model reads every token of a sequence back from the
// pool, so a block that holds anything else than its key says changes the answer.
#include <gtest/gtest.h>

#include <random>

#include "tests/support/engine_harness.h"

namespace choir {
namespace {

constexpr uint64_t kBytesPerToken = 16;

EngineOptions SmallOptions(uint64_t blocks = 400) {
  EngineOptions options;
  options.step_tokens = 16;
  options.sequences_max = 8;
  options.block_tokens = 4;
  options.kv_bytes = kBytesPerToken * 4 * blocks;
  return options;
}

// The first `shared` tokens of one prompt, then own ones.
SequenceRequest Begins(SequenceRequest like, uint64_t id, int32_t shared, int32_t num_tokens) {
  SequenceRequest request = MakeRequest(id, num_tokens, like.max_tokens);
  std::copy_n(like.tokens.begin(), shared, request.tokens.begin());
  return request;
}

Answer Ask(EngineHarness& harness, const SequenceRequest& request) {
  EXPECT_TRUE(harness.Submit(request).ok());
  const Answer answer = harness.Wait(request.id.value());
  EXPECT_EQ(answer.tokens, FakeAnswer(request)) << "sequence " << request.id.value();
  return answer;
}

TEST(PrefixCacheTest, FindsWhatAnEarlierPromptComputed) {
  int64_t rows = 0;
  EngineHarness harness(SmallOptions(), {}, 1, [&](const ModelBatch& b) {
    rows += static_cast<int64_t>(b.tokens.size());
  });
  harness.StartAlone();
  const auto first = MakeRequest(1, 42, 5);
  EXPECT_EQ(Ask(harness, first).cached_tokens, 0);
  rows = 0;
  EXPECT_EQ(Ask(harness, Begins(first, 2, 30, 42)).cached_tokens, 28);  // whole blocks
  EXPECT_EQ(rows, 42 - 28 + 4);
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.prefix_query_tokens, 84u);
  EXPECT_EQ(stats.prefix_hit_tokens, 28u);
}

TEST(PrefixCacheTest, ComputesAtLeastTheLastTokenOfAPromptItKnows) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  for (const int32_t length : {4, 5, 40, 41, 43}) {
    const auto id = static_cast<uint64_t>(length);
    const auto request = MakeRequest(id, length, 3);
    EXPECT_EQ(Ask(harness, request).cached_tokens, 0);
    EXPECT_EQ(Ask(harness, Begins(request, id + 1000, length, length)).cached_tokens,
              (length - 1) / 4 * 4);
  }
}

TEST(PrefixCacheTest, TheNextTurnFindsPromptAndAnswer) {
  for (const bool by_role : {false, true}) {
    const FakeModelOptions model = {.kv_by_role = by_role};
    EngineHarness harness(SmallOptions(), model);
    harness.StartAlone();
    const auto first = MakeRequest(1, 18, 15);
    const Answer answer = Ask(harness, first);
    auto next = MakeRequest(2, 50, 5);
    std::copy(first.tokens.begin(), first.tokens.end(), next.tokens.begin());
    std::copy(answer.tokens.begin(), answer.tokens.end(), next.tokens.begin() + 18);
    // 18 + 15 tokens, the last of which was never fed back: 8 blocks. Where the form depends on the
    // role, only those of the prompt: 4.
    EXPECT_EQ(Ask(harness, next).cached_tokens, by_role ? 16 : 32);
    // A replay has the roles that the first run had.
    auto replay = ReplayOf(first, 3, {answer.tokens.begin(), answer.tokens.begin() + 12});
    const uint64_t hits = harness.engine().stats().prefix_hit_tokens;
    ASSERT_TRUE(harness.Submit(replay).ok());
    const Answer rest = harness.Wait(3);
    EXPECT_EQ(rest.tokens, std::vector<int32_t>(answer.tokens.begin() + 12, answer.tokens.end()));
    EXPECT_EQ(rest.cached_tokens, 18);  // of the prompt
    EXPECT_EQ(harness.engine().stats().prefix_hit_tokens - hits, 28u);
  }
}

TEST(PrefixCacheTest, TenantsShareNothing) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  auto request = MakeRequest(1, 40, 3);
  request.cache_salt = "acme";
  Ask(harness, request);
  request.id = SequenceId(2);
  request.cache_salt = "other";
  EXPECT_EQ(Ask(harness, request).cached_tokens, 0);
  request.id = SequenceId(3);
  request.cache_salt = "acme";
  EXPECT_EQ(Ask(harness, request).cached_tokens, 36);
}

TEST(PrefixCacheTest, OffItFindsAndKeepsNothing) {
  EngineOptions options = SmallOptions();
  options.prefix_cache = false;
  EngineHarness harness(options);
  harness.StartAlone();
  const auto request = MakeRequest(1, 40, 3);
  Ask(harness, request);
  EXPECT_EQ(Ask(harness, Begins(request, 2, 40, 40)).cached_tokens, 0);
  harness.Stop();
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.kv_blocks_cached, 0u);
  EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks_total);
  EXPECT_EQ(stats.prefix_query_tokens, 0u);
}

TEST(PrefixCacheTest, ChoicesOfOnePromptComputeItOnce) {
  int64_t prompt_rows = 0;
  EngineHarness harness(SmallOptions(), {}, 1, [&](const ModelBatch& batch) {
    for (const int32_t position : batch.positions) prompt_rows += position < 100 ? 1 : 0;
  });
  std::vector<SequenceRequest> choices;
  for (uint32_t choice = 0; choice < 6; ++choice) {
    auto request = MakeRequest(1, 102, 20);
    request.id = SequenceId(choice + 1);
    request.sampling.choice = choice;
    choices.push_back(request);
    ASSERT_TRUE(harness.Submit(request).ok());
  }
  harness.StartAlone();
  for (const SequenceRequest& request : choices) {
    EXPECT_EQ(harness.Wait(request.id.value()).tokens, FakeAnswer(request));
  }
  EXPECT_EQ(prompt_rows, 100);
  EXPECT_EQ(harness.Now(1).cached_tokens, 0);
  EXPECT_EQ(harness.Now(6).cached_tokens, 100);
}

TEST(PrefixCacheTest, WhatWasEvictedIsComputedAgain) {
  EngineHarness harness(SmallOptions(20));
  harness.StartAlone();
  const auto request = MakeRequest(1, 40, 3);
  Ask(harness, request);
  Ask(harness, MakeRequest(2, 70, 3));  // 18 blocks: leaves two of the first's eleven
  EXPECT_EQ(Ask(harness, Begins(request, 3, 40, 40)).cached_tokens, 8);
  harness.Stop();
  EXPECT_EQ(harness.engine().stats().ledger_difference, 0);
  EXPECT_EQ(harness.engine().stats().kv_blocks_held, 0u);
}

TEST(PrefixCacheTest, SurvivesTheEndOfAnEpoch) {
  EngineHarness harness(SmallOptions());
  harness.HoldAt(1, 10);
  harness.StartAlone();
  const auto request = MakeRequest(1, 40, 30);
  ASSERT_TRUE(harness.Submit(request).ok());
  const Answer cut = harness.WaitForTokens(1, 10);
  harness.engine().SetEpoch(MakeSingleCollectives(2));
  harness.Release();
  EXPECT_EQ(harness.Wait(1).finish, Finish::kLost);
  ASSERT_TRUE(harness.Submit(ReplayOf(request, 2, cut.tokens)).ok());
  const Answer rest = harness.Wait(2);
  EXPECT_EQ(rest.cached_tokens, 40);
  std::vector<int32_t> all = cut.tokens;
  all.insert(all.end(), rest.tokens.begin(), rest.tokens.end());
  EXPECT_EQ(all, FakeAnswer(request));
}

struct Load {
  uint64_t blocks;
  int64_t step_tokens;
};

class PrefixCacheLoadTest : public testing::TestWithParam<std::tuple<uint32_t, Load>> {};

// Few families of prompts, tight memory, classes, cancels: hits, evictions, preemptions and sharing
// all at once, and every answer is the one that the sequence gives alone.
TEST_P(PrefixCacheLoadTest, EveryAnswerIsWhatItIsAlone) {
  const auto [seed, load] = GetParam();
  std::mt19937 rng(seed);
  EngineOptions options = SmallOptions(load.blocks);
  options.step_tokens = load.step_tokens;
  options.sequences_max = std::min<int64_t>(8, load.step_tokens);
  EngineHarness harness(options);
  harness.StartAlone();
  std::vector<SequenceRequest> requests;
  std::vector<uint64_t> cancelled;
  for (uint64_t id = 1; id <= 80; ++id) {
    const auto length = 1 + static_cast<int32_t>(rng() % 60);
    auto request = MakeRequest(id, length, 1 + static_cast<int32_t>(rng() % 20));
    const auto family = MakeRequest(900 + rng() % 3, 60, 1);
    const auto shared = static_cast<long>(rng() % static_cast<uint32_t>(length + 1));
    std::copy_n(family.tokens.begin(), shared, request.tokens.begin());
    request.priority = static_cast<int32_t>(rng() % 2);
    request.cache_salt = rng() % 4 == 0 ? "other" : "";
    ASSERT_TRUE(harness.Submit(request).ok());
    requests.push_back(request);
    if (rng() % 8 == 0) {
      cancelled.push_back(id);
      harness.engine().Cancel(SequenceId(id));
    }
    if (rng() % 10 == 0) harness.Wait(requests[rng() % requests.size()].id.value());
  }
  for (const SequenceRequest& request : requests) {
    const uint64_t id = request.id.value();
    const Answer answer = harness.Wait(id);
    std::vector<int32_t> expected = FakeAnswer(request);
    if (std::find(cancelled.begin(), cancelled.end(), id) != cancelled.end()) {
      ASSERT_LE(answer.tokens.size(), expected.size());
      expected.resize(answer.tokens.size());
    }
    EXPECT_EQ(answer.tokens, expected) << "sequence " << id;
  }
  harness.Stop();
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.kv_blocks_held, 0u);
  EXPECT_EQ(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
  EXPECT_EQ(stats.ledger_difference, 0);
  EXPECT_GT(stats.prefix_hit_tokens, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PrefixCacheLoadTest,
                         testing::Combine(testing::Range(0u, 12u),
                                          testing::Values(Load{22, 16}, Load{40, 7},
                                                          Load{400, 64})));

}  // namespace
}  // namespace choir
