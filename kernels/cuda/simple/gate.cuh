// gate_top_k: the experts of a token and their weights.
// Shapes   logits [T,E] f32, bias [E]; ids and weights [T,top_k], ids ascending. E <= 4096.
// Bound    memory: T·E·4 bytes; the work on them is E² comparisons a token (256 experts: 512 a
//          thread), which no tensor unit is needed for.
// Plan     a block a token, all in shared memory. An expert is chosen when fewer than top_k are
//          better (greater, or equal with a lower index); NaN counts as -inf, so always top_k are.
//          Its place among the chosen is the number of chosen ones before it.
// Oracle   kernels/reference/moe.cc; families' formulas: kernels/ops/moe.h.
#pragma once

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/ops/moe.h"

namespace choir::cuda {

// How many of values[0..count) are better than values[i].
CHOIR_DEVICE int64_t RankOf(const float* values, int64_t count, int64_t i) {
  int64_t rank = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (values[j] > values[i] || (values[j] == values[i] && j < i)) ++rank;
  }
  return rank;
}

CHOIR_DEVICE float NumberOrLeast(float x) { return x == x ? x : -kInfinity; }

struct GateKernel {
  const float* logits;
  const float* bias;  // or null
  int32_t* ids;
  float* weights;
  const int32_t* num_rows;  // or null
  int64_t experts, top_k, groups, groups_kept;
  GateScore score;
  GroupScore group_score;
  bool masked_score_is_zero, normalize;
  float scaling;

  // scores, choice [experts]; groups [groups]; scratch [kWarp]
  static constexpr int64_t Shared(int64_t experts, int64_t groups) {
    return (2 * experts + groups + kWarp) * static_cast<int64_t>(sizeof(float));
  }

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    if (num_rows != nullptr && block.x() >= *num_rows) return ChooseNone(block);
    auto* scores = reinterpret_cast<float*>(block.shared());
    float* choice = scores + experts;
    float* group_values = choice + experts;
    float* scratch = group_values + groups;
    ComputeScores(block, logits + block.x() * experts, scores, scratch);
    for (int64_t e = block.thread(); e < experts; e += block.threads()) {
      choice[e] = NumberOrLeast(bias == nullptr ? scores[e] : scores[e] + bias[e]);
    }
    block.Sync();
    if (groups_kept < groups) RefuseGroups(block, scores, choice, group_values);
    Choose(block, scores, choice, scratch);
  }

  template <class Block>
  CHOIR_DEVICE void ChooseNone(Block& block) const {
    for (int64_t k = block.thread(); k < top_k; k += block.threads()) {
      ids[block.x() * top_k + k] = -1;
      weights[block.x() * top_k + k] = 0.0f;
    }
  }

  template <class Block>
  CHOIR_DEVICE void ComputeScores(Block& block, const float* from, float* scores,
                                  float* scratch) const {
    if (score != GateScore::kSoftmax) {
      for (int64_t e = block.thread(); e < experts; e += block.threads()) {
        scores[e] = score == GateScore::kSigmoid ? Sigmoid(from[e]) : from[e];
      }
      return;
    }
    float top = -kInfinity;
    for (int64_t e = block.thread(); e < experts; e += block.threads()) top = Max(from[e], top);
    top = BlockMax(block, top, scratch);
    float sum = 0.0f;
    for (int64_t e = block.thread(); e < experts; e += block.threads()) {
      scores[e] = Exp(from[e] - top);
      sum += scores[e];
    }
    sum = BlockSum(block, sum, scratch);
    for (int64_t e = block.thread(); e < experts; e += block.threads()) scores[e] /= sum;
  }

  template <class Block>
  CHOIR_DEVICE void RefuseGroups(Block& block, float* scores, float* choice,
                                 float* group_values) const {
    const int64_t size = experts / groups;
    for (int64_t g = block.thread(); g < groups; g += block.threads()) {
      float best = -kInfinity;
      float second = -kInfinity;
      for (int64_t i = g * size; i < (g + 1) * size; ++i) {
        second = Max(second, choice[i] > best ? best : choice[i]);
        best = Max(best, choice[i]);
      }
      const bool two = group_score == GroupScore::kSumOfBestTwo && size > 1;
      group_values[g] = NumberOrLeast(two ? best + second : best);
    }
    block.Sync();
    for (int64_t e = block.thread(); e < experts; e += block.threads()) {
      if (RankOf(group_values, groups, e / size) < groups_kept) continue;
      choice[e] = masked_score_is_zero ? 0.0f : -kInfinity;
      if (masked_score_is_zero) scores[e] = 0.0f;
    }
    block.Sync();
  }

  template <class Block>
  CHOIR_DEVICE void Choose(Block& block, const float* scores, const float* choice,
                           float* scratch) const {
    int32_t* to_ids = ids + block.x() * top_k;
    float* to = weights + block.x() * top_k;
    auto* kept = reinterpret_cast<int32_t*>(scratch);  // of the chunk, by warp
    int64_t before = 0;                                // chosen in earlier chunks
    for (int64_t e0 = 0; e0 < experts; e0 += block.threads()) {
      const int64_t e = e0 + block.thread();
      const bool chosen = e < experts && RankOf(choice, experts, e) < top_k;
      const uint32_t flags = block.Ballot(chosen);
      if (block.lane() == 0) kept[block.warp()] = std::popcount(flags);
      block.Sync();
      int64_t place = before + std::popcount(flags & ((1u << block.lane()) - 1));
      for (int w = 0; w < block.threads() / kWarp; ++w) {
        if (w < block.warp()) place += kept[w];
        before += kept[w];
      }
      if (chosen) {
        to_ids[place] = static_cast<int32_t>(e);
        to[place] = scores[e];
      }
      block.Sync();
    }
    if (block.thread() == 0) Weigh(to);
  }

  // One thread, k ascending: a few values.
  CHOIR_DEVICE void Weigh(float* to) const {
    if (score == GateScore::kSoftmaxOfChosen) {
      float top = -kInfinity;
      for (int64_t k = 0; k < top_k; ++k) top = Max(to[k], top);
      float sum = 0.0f;
      for (int64_t k = 0; k < top_k; ++k) sum += to[k] = Exp(to[k] - top);
      for (int64_t k = 0; k < top_k; ++k) to[k] /= sum;
    }
    float sum = 0.0f;
    for (int64_t k = 0; k < top_k; ++k) sum += to[k];
    const float factor = normalize ? scaling / (sum + 1e-20f) : scaling;
    for (int64_t k = 0; k < top_k; ++k) to[k] *= factor;
  }
};

template <class Runner>
void GateTopK(const GateTopKArgs& a, const Runner& run) {
  const int64_t experts = a.logits.dim(1);
  const int64_t top_k = a.expert_ids.dim(1);
  CHOIR_CHECK(experts <= kGateExpertsMax && top_k <= experts && experts % a.num_groups == 0);
  CHOIR_CHECK(a.groups_kept <= a.num_groups && a.weights.dim(1) == top_k);
  run({.x = a.logits.dim(0),
       .threads = 128,
       .shared_bytes = GateKernel::Shared(experts, a.num_groups)},
      GateKernel{.logits = a.logits.f32(),
                 .bias = a.bias.empty() ? nullptr : a.bias.f32(),
                 .ids = a.expert_ids.template data<int32_t>(),
                 .weights = a.weights.f32(),
                 .num_rows = a.num_rows,
                 .experts = experts,
                 .top_k = top_k,
                 .groups = a.num_groups,
                 .groups_kept = a.groups_kept,
                 .score = a.score,
                 .group_score = a.group_score,
                 .masked_score_is_zero = a.masked_score_is_zero,
                 .normalize = a.normalize,
                 .scaling = a.scaling});
}

}  // namespace choir::cuda
