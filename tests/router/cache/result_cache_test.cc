#include "router/cache/result_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/sim_clock.h"

namespace choir {
namespace {

using std::chrono::seconds;

ResultKey Key(int number) { return Sha256Of(std::to_string(number)); }

KnownAnswer AnswerOf(size_t num_tokens, int32_t token = 7) {
  return {{.tokens = std::vector<int32_t>(num_tokens, token), .finish_reason = "stop"}};
}

class MemoryResultCacheTest : public testing::Test {
 protected:
  void Make(size_t bytes_max) { cache_ = MakeMemoryResultCache(bytes_max, seconds(60), &clock_); }
  std::optional<KnownAnswer> Find(int number) {
    std::optional<KnownAnswer> found;
    cache_->Find(Key(number), [&](std::optional<KnownAnswer> known) { found = std::move(known); });
    return found;
  }
  // What one answer of so many tokens takes.
  size_t BytesOf(size_t num_tokens) {
    Make(1 << 20);
    cache_->Put(Key(0), AnswerOf(num_tokens));
    return cache_->state().bytes;
  }

  SimClock clock_;
  std::unique_ptr<ResultCache> cache_;
};

TEST_F(MemoryResultCacheTest, KnowsWhatWasPut) {
  Make(1 << 20);
  EXPECT_FALSE(Find(1));
  cache_->Put(Key(1), AnswerOf(3));
  EXPECT_EQ(Find(1), AnswerOf(3));
  cache_->Put(Key(1), AnswerOf(4));
  EXPECT_EQ(Find(1), AnswerOf(4));
  EXPECT_EQ(cache_->state().answers, 1u);
}

TEST_F(MemoryResultCacheTest, ForgetsAfterItsTime) {
  Make(1 << 20);
  cache_->Put(Key(1), AnswerOf(3));
  clock_.Advance(seconds(59));
  EXPECT_TRUE(Find(1)) << "and being asked for does not make it younger";
  clock_.Advance(seconds(1));
  EXPECT_FALSE(Find(1));
  EXPECT_EQ(cache_->state().answers, 0u);
  EXPECT_EQ(cache_->state().bytes, 0u);
}

TEST_F(MemoryResultCacheTest, DropsWhatWasNotAskedForLongest) {
  const size_t one = BytesOf(100);
  Make(2 * one);
  cache_->Put(Key(1), AnswerOf(100));
  cache_->Put(Key(2), AnswerOf(100));
  EXPECT_TRUE(Find(1));
  cache_->Put(Key(3), AnswerOf(100));
  EXPECT_TRUE(Find(1));
  EXPECT_FALSE(Find(2));
  EXPECT_TRUE(Find(3));
  EXPECT_EQ(cache_->state().bytes, 2 * one);
}

TEST_F(MemoryResultCacheTest, LeavesOutWhatDoesNotFit) {
  const size_t bytes = BytesOf(100);
  Make(bytes);
  cache_->Put(Key(1), AnswerOf(100));
  EXPECT_TRUE(Find(1));
  cache_->Put(Key(2), AnswerOf(101));
  EXPECT_FALSE(Find(2));
  EXPECT_TRUE(Find(1)) << "nothing had to go for it";
}

struct Asked {
  std::string tenant = "acme", numerics_id = "n";
  std::vector<int32_t> prompt = {1, 2};
  SequenceSampling sampling = {.max_tokens = 5, .temperature = 0};
  bool seeded = false;
  uint32_t num_choices = 1;
  std::vector<std::string> stops;
};
std::optional<ResultKey> KeyFor(const Asked& a) {
  return KeyOf({.tenant = a.tenant,
                .numerics_id = a.numerics_id,
                .prompt = a.prompt,
                .sampling = a.sampling,
                .seeded = a.seeded,
                .num_choices = a.num_choices,
                .stops = a.stops});
}

TEST(ResultKeyTest, WhatIsDrawnAtRandomHasNone) {
  Asked asked;
  asked.sampling.temperature = 0.5;
  EXPECT_FALSE(KeyFor(asked));
  asked.seeded = true;
  EXPECT_TRUE(KeyFor(asked));
  asked.sampling.num_logprobs = 0;
  EXPECT_FALSE(KeyFor(asked)) << "they are not kept";
}

TEST(ResultKeyTest, AGreedyAnswerDoesNotDependOnTheDraw) {
  Asked one, other;
  other.sampling.seed = 99;
  other.sampling.top_p = 0.5;
  other.seeded = true;
  EXPECT_EQ(KeyFor(one), KeyFor(other));
}

TEST(ResultKeyTest, EverythingThatTheAnswerDependsOnCounts) {
  Asked base;
  base.sampling.temperature = 1;
  base.seeded = true;
  const std::vector<std::function<void(Asked*)>> changes = {
      [](Asked*) {},
      [](Asked* a) { a->tenant = "other"; },
      [](Asked* a) { a->numerics_id = "m"; },
      [](Asked* a) {
        a->prompt = {1, 2, 3};
      },
      [](Asked* a) {
        a->prompt = {2, 1};
      },
      [](Asked* a) { a->sampling.max_tokens = 6; },
      [](Asked* a) { a->sampling.temperature = 0.5; },
      [](Asked* a) { a->sampling.temperature = 0; },
      [](Asked* a) { a->sampling.seed = 1; },
      [](Asked* a) { a->sampling.top_p = 0.5; },
      [](Asked* a) { a->sampling.top_k = 5; },
      [](Asked* a) { a->sampling.min_p = 0.5; },
      [](Asked* a) { a->sampling.presence_penalty = 1; },
      [](Asked* a) { a->sampling.frequency_penalty = 1; },
      [](Asked* a) { a->sampling.bias_ids = {4}, a->sampling.bias_values = {1}; },
      [](Asked* a) { a->sampling.bias_ids = {4}, a->sampling.bias_values = {2}; },
      [](Asked* a) { a->sampling.stop_token_ids = {4}; },
      [](Asked* a) { a->num_choices = 2; },
      [](Asked* a) { a->stops = {"ab"}; },
      [](Asked* a) {
        a->stops = {"a", "b"};
      },
  };
  std::set<ResultKey> keys;
  for (const auto& change : changes) {
    Asked asked = base;
    change(&asked);
    keys.insert(*KeyFor(asked));
  }
  EXPECT_EQ(keys.size(), changes.size());
}

TEST(KnownAnswerTest, ComesBackFromItsBytes) {
  const KnownAnswer answer = {{{1, -1, 2147483647}, "stop"}, {{}, "length"}};
  EXPECT_EQ(DecodeKnownAnswer(EncodeKnownAnswer(answer)), answer);
}

TEST(KnownAnswerTest, OtherBytesAreNone) {
  const std::string good = EncodeKnownAnswer(AnswerOf(3));
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(DecodeKnownAnswer(good.substr(0, size)));
  }
  EXPECT_FALSE(DecodeKnownAnswer("\xff\xff"));
  EXPECT_FALSE(DecodeKnownAnswer("\x80")) << "no choice";
}

}  // namespace
}  // namespace choir
