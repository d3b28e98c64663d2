// Sampler: from one row of logits to a token, exactly and reproducibly: the token is a function of
// the logits, the parameters, the tokens generated so far and the position; of nothing else.
//
// Order: presence and frequency penalties (over generated tokens), logit bias, then with
// temperature 0 the best value (ties: the lower id), else temperature, top_k, top_p, min_p on what
// is left, and one draw.
//  top_k  keeps the k best values (ties: the lower id).
//  top_p  keeps, from the best down, the fewest tokens whose share reaches p; at least one.
//  min_p  keeps tokens with at least min_p times the best one's probability.
//  draw   Philox(seed, choice, position) gives one uniform number of 53 bits; it picks from the
//         cumulative sum over the kept tokens in ascending id order.
// Weights are integers (exact_math.h), so sums and shares do not depend on an order of addition.
// Logprobs are the log-softmax of the raw logits, in double. NaN counts as minus infinity.
//
// Has scratch memory: one thread at a time; make one per thread.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "worker/engine/types.h"

namespace choir {

using TokenCounts = std::unordered_map<int32_t, int32_t>;  // generated tokens of one sequence

struct SampledToken {
  int32_t id = 0;
  SampledLogprob logprob;  // filled when params.num_logprobs >= 0
};

inline bool HasPenalties(const SamplingParams& params) {
  return params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
}

class Sampler {
 public:
  explicit Sampler(int64_t vocab) : vocab_(static_cast<size_t>(vocab)) {}

  // position: index among the generated tokens. counts may be null without penalties.
  // REQUIRES: logits.size() == vocab; ids in logit_bias within the vocabulary.
  SampledToken Sample(std::span<const float> logits, const SamplingParams& params,
                      const TokenCounts* counts, uint64_t position);

 private:
  std::span<const float> Adjust(std::span<const float> logits, const SamplingParams& params,
                                const TokenCounts* counts);
  int32_t Draw(std::span<const float> values, const SamplingParams& params, uint64_t position);
  void KeepNucleus(double top_p);
  uint64_t WeightOf(int32_t id) const { return weights_[static_cast<size_t>(id)]; }
  SampledLogprob LogprobOf(std::span<const float> logits, int32_t id, int32_t num_top);

  size_t vocab_;
  std::vector<float> adjusted_;
  std::vector<uint64_t> weights_;  // by id
  std::vector<int32_t> kept_;
  std::vector<int32_t> head_;
};

// The k best ids of `values`, best first; ties: the lower id first. NaN counts as minus infinity.
std::vector<int32_t> BestIds(std::span<const float> values, size_t k);

}  // namespace choir
