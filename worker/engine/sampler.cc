#include "worker/engine/sampler.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "worker/engine/exact_math.h"

namespace choir {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr size_t kHeapMax = 512;  // above, selection beats a heap

int32_t BestId(std::span<const float> values) { return static_cast<int32_t>(BestIndex(values)); }

float ValueAt(std::span<const float> values, int32_t id) {
  const float v = values[static_cast<size_t>(id)];
  return v == v ? v : kMinusInfinity;
}

// The item (id, weight) that `uniform` of the whole weight falls on; `best` when nothing weighs
// anything.
template <typename ItemAt>
int32_t PickByWeight(size_t count, int32_t best, double uniform, const ItemAt& item) {
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += item(i).second;
  // Below total, rounding included: uniform <= 1 - 2^-53.
  const auto target = static_cast<uint64_t>(uniform * static_cast<double>(total));
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto [id, weight] = item(i);
    sum += weight;
    if (sum > target) return id;
  }
  return best;
}

}  // namespace

std::vector<int32_t> BestIds(std::span<const float> values, size_t k) {
  k = std::min(k, values.size());
  const auto better = [values](int32_t a, int32_t b) {
    const float va = ValueAt(values, a), vb = ValueAt(values, b);
    return va > vb || (va == vb && a < b);
  };
  std::vector<int32_t> best(k);
  if (k == 0) return best;
  if (k > kHeapMax) {
    best.resize(values.size());
    std::iota(best.begin(), best.end(), 0);
    if (k < best.size()) {
      std::nth_element(best.begin(), best.begin() + static_cast<ptrdiff_t>(k), best.end(), better);
    }
    best.resize(k);
    std::sort(best.begin(), best.end(), better);
    return best;
  }
  std::iota(best.begin(), best.end(), 0);
  std::make_heap(best.begin(), best.end(), better);  // the worst of the k is on top
  for (size_t i = k; i < values.size(); ++i) {
    // Ids ascend, so an equal value never replaces one that is in.
    if (!(values[i] > ValueAt(values, best.front()))) continue;
    std::pop_heap(best.begin(), best.end(), better);
    best.back() = static_cast<int32_t>(i);
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort_heap(best.begin(), best.end(), better);
  return best;
}

SampledToken Sampler::Sample(std::span<const float> logits, const SamplingParams& params,
                             const TokenCounts* counts, uint64_t position) {
  CHOIR_CHECK(logits.size() == vocab_);
  const std::span<const float> values = Adjust(logits, params, counts);
  SampledToken token;
  token.id = params.temperature > 0.0 ? Draw(values, params, position) : BestId(values);
  if (params.num_logprobs >= 0) token.logprob = LogprobOf(logits, token.id, params.num_logprobs);
  return token;
}

std::span<const float> Sampler::Adjust(std::span<const float> logits, const SamplingParams& params,
                                       const TokenCounts* counts) {
  const bool penalties = HasPenalties(params) && counts != nullptr && !counts->empty();
  if (!penalties && params.logit_bias.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  if (penalties) {
    for (const auto& [id, count] : *counts) {
      float& v = adjusted_[static_cast<size_t>(id)];
      v = static_cast<float>(v - params.frequency_penalty * count - params.presence_penalty);
    }
  }
  for (const auto& [id, bias] : params.logit_bias) adjusted_[static_cast<size_t>(id)] += bias;
  return adjusted_;
}

int32_t Sampler::Draw(std::span<const float> values, const SamplingParams& params,
                      uint64_t position) {
  const int32_t best = BestId(values);
  const double max = values[static_cast<size_t>(best)];
  const double scale = 1.0 / std::max(params.temperature, 1e-300);
  weights_.resize(vocab_);
  const bool top_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab_;
  if (top_k) {
    kept_ = BestIds(values, static_cast<size_t>(params.top_k));
    std::sort(kept_.begin(), kept_.end());
    for (const int32_t id : kept_) {
      const double v = values[static_cast<size_t>(id)];
      weights_[static_cast<size_t>(id)] = ExactWeight((v - max) * scale);
    }
  } else {
    ExactWeights(values, max, scale, weights_);
  }
  const double uniform = UniformFor(params.seed, params.choice, position);
  const double least = params.min_p * kWeightOne;
  const auto passes = [least](uint64_t w) { return static_cast<double>(w) >= least; };
  if (!top_k && params.top_p >= 1.0) {  // no list of ids is needed
    if (least > 0.0) {
      for (uint64_t& w : weights_) w = passes(w) ? w : 0;
    }
    return PickByWeight(weights_.size(), best, uniform,
                        [&](size_t i) { return std::pair(static_cast<int32_t>(i), weights_[i]); });
  }
  if (!top_k) {
    kept_.resize(vocab_);
    std::iota(kept_.begin(), kept_.end(), 0);
  }
  if (params.top_p < 1.0) KeepNucleus(params.top_p);
  std::erase_if(kept_, [&](int32_t id) { return !passes(WeightOf(id)); });
  return PickByWeight(kept_.size(), best, uniform,
                      [&](size_t i) { return std::pair(kept_[i], WeightOf(kept_[i])); });
}

// Narrows down to the tokens above a falling threshold, then halves that head by selection until
// the token is found at which the sum reaches its share: no full sort.
void Sampler::KeepNucleus(double top_p) {
  uint64_t total = 0;
  for (const int32_t id : kept_) total += WeightOf(id);
  const uint64_t wanted = static_cast<uint64_t>(std::max(0.0, top_p) * static_cast<double>(total));
  uint64_t mass = 0;
  for (uint64_t threshold = uint64_t{1} << 40;; threshold >>= 4) {
    head_.clear();
    mass = 0;
    for (const int32_t id : kept_) {
      if (WeightOf(id) < threshold) continue;
      head_.push_back(id);
      mass += WeightOf(id);
    }
    if (mass >= wanted || threshold == 0) break;
  }
  const auto heavier = [this](int32_t a, int32_t b) {
    return WeightOf(a) > WeightOf(b) || (WeightOf(a) == WeightOf(b) && a < b);
  };
  // Everything before `low` is kept and weighs `sum`; everything from `high` on is not needed.
  auto low = head_.begin(), high = head_.end();
  uint64_t sum = 0;
  while (high - low > 1) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, heavier);
    uint64_t half = 0;
    for (auto it = low; it != middle; ++it) half += WeightOf(*it);
    if (sum + half >= wanted) {
      high = middle;
    } else {
      sum += half;
      low = middle;
    }
  }
  head_.erase(high, head_.end());
  std::sort(head_.begin(), head_.end());
  kept_.swap(head_);
}

SampledLogprob Sampler::LogprobOf(std::span<const float> logits, int32_t id, int32_t num_top) {
  const double max = logits[static_cast<size_t>(BestId(logits))];
  const double sum = ExactExpSum(logits, max);
  const double log_sum = sum > 0.0 ? max + ExactLog(sum) : max;
  const auto logprob = [&](int32_t i) {
    return static_cast<float>(static_cast<double>(ValueAt(logits, i)) - log_sum);
  };
  SampledLogprob out;
  out.logprob = logprob(id);
  const std::vector<int32_t> best = BestIds(logits, static_cast<size_t>(num_top));
  out.top.reserve(best.size());
  for (const int32_t i : best) out.top.emplace_back(i, logprob(i));
  return out;
}

}  // namespace choir
