// gate_top_k, a warp a token: the second rung, no tensor cores in it.
// Shapes   as simple/gate.cuh, E <= 512, at most 32 groups, top_k <= 32; else the simple way.
// Bound    memory: T·E·4 bytes, 4 MB and 0.9 us on an H200 for 4,096 tokens of 256 experts.
// Plan     a lane holds every 32nd expert in registers: no barrier a token but those around what
//          lanes read of each other. The chosen are found one by one, each by a butterfly over
//          (value, index); counted, not run: some 900 instructions a token, 4 us for 4,096 on 132
//          multiprocessors. The simple kernel makes E² comparisons a token.
//          Bits are the simple kernel's but for a softmax over all experts, summed by lanes.
// Oracle   the simple kernel and kernels/reference/moe.cc, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/simple/gate.cuh"

namespace choir::cuda {

inline constexpr int kGateWarps = 4;  // tokens of a block

// kEach: experts of a lane.
template <int kEach>
struct WarpGateKernel {
  const float* logits;
  const float* bias;  // or null
  int32_t* ids;
  float* weights;
  const int32_t* num_rows;  // or null
  int32_t tokens, experts, top_k, groups, groups_kept;
  GateScore score;
  GroupScore group_score;
  bool masked_score_is_zero, normalize;
  float scaling;

  static constexpr int kExperts = kEach * kWarp;
  // Of a warp: choice [kExperts], a value a group, scores of the chosen.
  static constexpr int64_t kShared =
      kGateWarps * (kExperts + 2 * kWarp) * static_cast<int64_t>(sizeof(float));

  struct Token {
    float scores[kEach], choice[kEach];
    uint32_t taken = 0;  // bit i: expert i · 32 + lane is chosen, or not there
  };

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    float* choice =
        reinterpret_cast<float*>(block.shared()) + block.warp() * (kExperts + 2 * kWarp);
    const int64_t token = block.x() * kGateWarps + block.warp();
    Token t;
    Read(block, token, t);
    if (score == GateScore::kSoftmax) Normalize(block, t);
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int e = i * kWarp + block.lane();
      const bool biased = bias != nullptr && e < experts;
      t.choice[i] = NumberOrLeast(biased ? t.scores[i] + bias[e] : t.scores[i]);
    }
    if (groups_kept < groups) RefuseGroups(block, choice, t);
    const uint32_t rest = t.taken;
    for (int k = 0; k < top_k; ++k) TakeBest(block, t);
    t.taken &= ~rest;
    Write(block, token, t, choice + kExperts + kWarp);
  }

 private:
  template <class Block>
  CHOIR_DEVICE void Read(Block& block, int64_t token, Token& t) const {
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int e = i * kWarp + block.lane();
      float value = -kInfinity;
      if (e >= experts) t.taken |= 1u << i;
      if (e < experts && token < tokens) value = logits[token * experts + e];
      t.scores[i] = score == GateScore::kSigmoid ? Sigmoid(value) : value;
    }
  }

  template <class Block>
  CHOIR_DEVICE void Normalize(Block& block, Token& t) const {
    float top = -kInfinity;
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) top = Max(t.scores[i], top);
    for (int mask = kWarp / 2; mask > 0; mask /= 2) top = Max(block.ShuffleXor(top, mask), top);
    float sum = 0.0f;
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const bool there = i * kWarp + block.lane() < experts;
      t.scores[i] = there ? Exp(t.scores[i] - top) : 0.0f;
      sum += t.scores[i];
    }
    sum = WarpSum(block, sum);
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) t.scores[i] /= sum;
  }

  // A lane a group. Each begins at another member: at the same distance in all groups they would
  // lie in one bank.
  template <class Block>
  CHOIR_DEVICE float GroupValue(Block& block, const float* choice) const {
    const int size = experts / groups;
    const int group = block.lane();
    if (group >= groups) return -kInfinity;
    float best = -kInfinity;
    float second = -kInfinity;
    int member = group % size;
    for (int i = 0; i < size; ++i) {
      const float value = choice[group * size + member];
      second = Max(second, value > best ? best : value);
      best = Max(best, value);
      member = member + 1 == size ? 0 : member + 1;
    }
    const bool two = group_score == GroupScore::kSumOfBestTwo && size > 1;
    return NumberOrLeast(two ? best + second : best);
  }

  template <class Block>
  CHOIR_DEVICE void RefuseGroups(Block& block, float* choice, Token& t) const {
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) choice[i * kWarp + block.lane()] = t.choice[i];
    block.Sync();
    float* values = choice + kExperts;
    values[block.lane()] = GroupValue(block, choice);
    block.Sync();
    const bool kept = block.lane() < groups && RankOf(values, groups, block.lane()) < groups_kept;
    const uint32_t all_kept = block.Ballot(kept);
    const int size = experts / groups;
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int e = i * kWarp + block.lane();
      if (e >= experts || (all_kept >> (e / size) & 1) != 0) continue;
      t.choice[i] = masked_score_is_zero ? 0.0f : -kInfinity;
      if (masked_score_is_zero) t.scores[i] = 0.0f;
    }
  }

  // The greatest that is not taken, and of those the first.
  template <class Block>
  CHOIR_DEVICE void TakeBest(Block& block, Token& t) const {
    float best = -kInfinity;
    int at = kExperts;
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int e = i * kWarp + block.lane();
      const bool better = t.choice[i] > best || (t.choice[i] == best && e < at);
      if (!better || (t.taken >> i & 1) != 0) continue;
      best = t.choice[i];
      at = e;
    }
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const float other = block.ShuffleXor(best, mask);
      const int other_at = block.ShuffleXor(at, mask);
      if (other < best || (other == best && other_at > at)) continue;
      best = other;
      at = other_at;
    }
    if (at % kWarp == block.lane()) t.taken |= 1u << (at / kWarp);
  }

  // Experts in ascending order, or -1 of what is padding; the sums over them in the same.
  template <class Block>
  CHOIR_DEVICE void Write(Block& block, int64_t token, const Token& t, float* to) const {
    const bool pads = num_rows != nullptr && token >= *num_rows;
    int before = 0;
    CHOIR_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const bool mine = (t.taken >> i & 1) != 0;
      const uint32_t flags = block.Ballot(mine);
      const int place = before + std::popcount(flags & ((1u << block.lane()) - 1));
      before += std::popcount(flags);
      if (mine) to[place] = t.scores[i];
      if (mine && token < tokens) ids[token * top_k + place] = pads ? -1 : i * kWarp + block.lane();
    }
    block.Sync();
    const int k = block.lane();
    if (k < top_k && token < tokens) weights[token * top_k + k] = pads ? 0.0f : Weight(to, k);
  }

  CHOIR_DEVICE float Weight(const float* scores, int k) const {
    float top = -kInfinity;
    float sum = 0.0f;
    const bool softmax = score == GateScore::kSoftmaxOfChosen;
    if (softmax) {
      for (int i = 0; i < top_k; ++i) top = Max(scores[i], top);
      for (int i = 0; i < top_k; ++i) sum += Exp(scores[i] - top);
    }
    const auto value = [&](int i) { return softmax ? Exp(scores[i] - top) / sum : scores[i]; };
    if (!normalize) return value(k) * scaling;
    float all = 0.0f;
    for (int i = 0; i < top_k; ++i) all += value(i);
    return value(k) * (scaling / (all + 1e-20f));
  }
};

template <int kEach, class Runner>
void RunWarpGate(const GateTopKArgs& a, const Runner& run) {
  using Kernel = WarpGateKernel<kEach>;
  run({.x = CeilDiv(a.logits.dim(0), kGateWarps),
       .threads = kGateWarps * kWarp,
       .shared_bytes = Kernel::kShared},
      Kernel{.logits = a.logits.f32(),
             .bias = a.bias.empty() ? nullptr : a.bias.f32(),
             .ids = a.expert_ids.template data<int32_t>(),
             .weights = a.weights.f32(),
             .num_rows = a.num_rows,
             .tokens = static_cast<int32_t>(a.logits.dim(0)),
             .experts = static_cast<int32_t>(a.logits.dim(1)),
             .top_k = static_cast<int32_t>(a.expert_ids.dim(1)),
             .groups = a.num_groups,
             .groups_kept = a.groups_kept,
             .score = a.score,
             .group_score = a.group_score,
             .masked_score_is_zero = a.masked_score_is_zero,
             .normalize = a.normalize,
             .scaling = a.scaling});
}

template <class Runner>
void WarpGateTopK(const GateTopKArgs& a, const Runner& run) {
  const int64_t experts = a.logits.dim(1);
  const int64_t top_k = a.expert_ids.dim(1);
  if (experts > 512 || top_k > kWarp || a.num_groups > kWarp) return GateTopK(a, run);
  CHOIR_CHECK(top_k <= experts && experts % a.num_groups == 0);
  CHOIR_CHECK(a.groups_kept <= a.num_groups && a.weights.dim(1) == top_k);
  if (experts <= 128) return RunWarpGate<4>(a, run);
  if (experts <= 256) return RunWarpGate<8>(a, run);
  RunWarpGate<16>(a, run);
}

}  // namespace choir::cuda
