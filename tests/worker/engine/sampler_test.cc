#include "worker/engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "common/base/philox.h"
#include "worker/engine/exact_math.h"

namespace choir {
namespace {

std::vector<float> RandomLogits(size_t vocab, uint32_t seed, float spread = 3.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(vocab);
  for (float& l : logits) l = normal(rng);
  return logits;
}

int32_t SampleId(const std::vector<float>& logits, const SamplingParams& params,
                 uint64_t position = 0, const TokenCounts* counts = nullptr) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  return sampler.Sample(logits, params, counts, position).id;
}

// The header's words, done the slow way: a full sort of everything.
int32_t ByFullSort(const std::vector<float>& logits, const SamplingParams& p, uint64_t position) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto at = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
  if (p.temperature == 0.0) return ids[0];
  const double max = at(ids[0]);
  const auto weight = [&](int32_t id) {
    return ExactWeight((at(id) - max) * (1.0 / p.temperature));
  };
  const auto sum_of = [&](const std::vector<int32_t>& list) {
    uint64_t sum = 0;
    for (const int32_t id : list) sum += weight(id);
    return static_cast<double>(sum);
  };
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < ids.size()) {
    ids.resize(static_cast<size_t>(p.top_k));
  }
  if (p.top_p < 1.0) {
    const auto wanted = static_cast<uint64_t>(p.top_p * sum_of(ids));
    uint64_t sum = 0;
    size_t n = 0;
    while (n < ids.size() && (n == 0 || sum < wanted)) sum += weight(ids[n++]);
    ids.resize(n);
  }
  std::erase_if(ids,
                [&](int32_t id) { return static_cast<double>(weight(id)) < p.min_p * kWeightOne; });
  const auto target = static_cast<uint64_t>(UniformFor(p.seed, p.choice, position) * sum_of(ids));
  std::sort(ids.begin(), ids.end());
  uint64_t sum = 0;
  for (const int32_t id : ids) {
    sum += weight(id);
    if (sum > target) return id;
  }
  return ids.back();
}

TEST(SamplerTest, GreedyTakesTheBestAndTheLowerIdOfATie) {
  EXPECT_EQ(SampleId({1, 5, 3, 5}, {.temperature = 0.0}), 1);
}

TEST(SamplerTest, GreedyIgnoresSeedAndFilters) {
  const auto logits = RandomLogits(500, 3);
  const SamplingParams params = {.temperature = 0.0, .top_p = 0.1, .top_k = 3, .seed = 99};
  EXPECT_EQ(SampleId(logits, params),
            std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(SamplerTest, AgreesWithAFullSort) {
  std::mt19937 rng(5);
  const auto pick = [&](double a, double b) {
    return std::uniform_real_distribution<double>(a, b)(rng);
  };
  for (uint32_t i = 0; i < 3000; ++i) {
    const size_t vocab = 1 + rng() % 3000;
    auto logits = RandomLogits(vocab, i, static_cast<float>(pick(0.0, 8.0)));
    if (i % 3 == 0) {  // many ties
      for (float& l : logits) l = std::round(l);
    }
    SamplingParams params;
    params.temperature = pick(0.05, 3.0);
    if (rng() % 2 == 0) params.top_p = pick(0.0, 1.0);
    if (rng() % 2 == 0) params.top_k = static_cast<int32_t>(rng() % 1200);
    if (rng() % 3 == 0) params.min_p = pick(0.0, 0.5);
    params.seed = rng();
    params.choice = static_cast<uint32_t>(rng() % 3);
    const uint64_t position = rng();
    ASSERT_EQ(SampleId(logits, params, position), ByFullSort(logits, params, position))
        << "case " << i << " vocab " << vocab << " T " << params.temperature << " top_p "
        << params.top_p << " top_k " << params.top_k << " min_p " << params.min_p;
  }
}

TEST(SamplerTest, DrawsWithTheSoftmaxProbabilities) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f), std::log(2.0f)};
  std::vector<int> count(4);
  for (uint64_t i = 0; i < 50000; ++i) ++count[static_cast<size_t>(SampleId(logits, {}, i))];
  EXPECT_NEAR(count[0], 5000, 300);
  EXPECT_NEAR(count[1], 10000, 400);
  EXPECT_NEAR(count[2], 25000, 500);
  EXPECT_NEAR(count[3], 10000, 400);
}

TEST(SamplerTest, TopPOfZeroKeepsOneToken) {
  const auto logits = RandomLogits(100, 1);
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(SampleId(logits, {.top_p = 0.0}, i), SampleId(logits, {.temperature = 0.0}));
  }
}

TEST(SamplerTest, TinyTemperaturesAreSafe) {
  const auto logits = RandomLogits(100, 2);
  EXPECT_EQ(SampleId(logits, {.temperature = 1e-300}), SampleId(logits, {.temperature = 0.0}));
}

TEST(SamplerTest, PenaltiesCountGeneratedTokens) {
  const std::vector<float> logits = {1.0f, 1.5f, 0.9f};
  const TokenCounts counts = {{1, 2}};
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0}, 0, &counts), 1);
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0, .presence_penalty = 0.6}, 0, &counts), 0);
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0, .frequency_penalty = 0.3}, 0, &counts), 0);
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0, .frequency_penalty = 0.2}, 0, &counts), 1);
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0, .frequency_penalty = -1.0}, 0, &counts), 1);
}

TEST(SamplerTest, BiasForbidsAndForces) {
  const std::vector<float> logits = {1.0f, 1.5f, 0.9f};
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0, .logit_bias = {{1, -100.0f}}}), 0);
  EXPECT_EQ(SampleId(logits, {.temperature = 0.0, .logit_bias = {{2, 100.0f}}}), 2);
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(SampleId(logits, {.logit_bias = {{2, 100.0f}}}, i), 2);
  }
}

TEST(SamplerTest, LogprobsAreOfTheRawLogits) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f), std::log(2.0f)};
  Sampler sampler(4);
  const SamplingParams params = {.temperature = 0.0, .logit_bias = {{0, 50.0f}}, .num_logprobs = 3};
  const SampledToken token = sampler.Sample(logits, params, nullptr, 0);
  EXPECT_EQ(token.id, 0);
  EXPECT_NEAR(token.logprob.logprob, std::log(0.1), 1e-6);
  ASSERT_EQ(token.logprob.top.size(), 3u);
  EXPECT_EQ(token.logprob.top[0].first, 2);
  EXPECT_NEAR(token.logprob.top[0].second, std::log(0.5), 1e-6);
  EXPECT_EQ(token.logprob.top[1].first, 1);  // the lower id of a tie
  EXPECT_EQ(token.logprob.top[2].first, 3);
}

TEST(SamplerTest, AsksForNoLogprobsAndGetsNone) {
  Sampler sampler(3);
  const std::vector<float> logits = {0, 1, 2};
  EXPECT_TRUE(sampler.Sample(logits, {}, nullptr, 0).logprob.top.empty());
  EXPECT_EQ(sampler.Sample(logits, {.num_logprobs = 0}, nullptr, 0).logprob.top.size(), 0u);
  EXPECT_LT(sampler.Sample(logits, {.num_logprobs = 0}, nullptr, 0).logprob.logprob, 0.0f);
  EXPECT_EQ(sampler.Sample(logits, {.num_logprobs = 99}, nullptr, 0).logprob.top.size(), 3u);
}

TEST(SamplerTest, SurvivesLogitsThatAreNoNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(SampleId({nan, 1, nan}, {.temperature = 0.0}), 1);
  for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(SampleId({nan, 1, -inf}, {.top_p = 0.9}, i), 1);
  EXPECT_EQ(SampleId({-inf, inf, 0}, {}), 1);
  EXPECT_EQ(SampleId({nan, nan}, {.top_p = 0.5, .top_k = 1}), 0);
}

TEST(SamplerTest, BestIdsAreTheHeadOfAStableSort) {
  std::mt19937 rng(9);
  for (uint32_t i = 0; i < 200; ++i) {
    auto values = RandomLogits(1 + rng() % 2000, i);
    for (float& v : values) v = std::round(v * 2);
    std::vector<int32_t> ids(values.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
      return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
    });
    const size_t k = rng() % (values.size() + 10);
    ids.resize(std::min(k, ids.size()));
    ASSERT_EQ(BestIds(values, k), ids);
  }
}

}  // namespace
}  // namespace choir
