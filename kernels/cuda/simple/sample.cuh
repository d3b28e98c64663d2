// sample: a token from each row of logits, the very one that the CPU's sampler takes.
// Shapes   logits [T,V] f32, V < 2^19; ids [T] i32; parameters a row (kernels/ops/sample.h).
// Bound    memory: T·V·4 bytes once. This rung passes over the row about 64 times for top_k and 64
//          times for top_p, from the cache.
// Plan     a block a row. Everything is integers, so no order of addition matters: weights are
//          ExactWeightOf(...), orders are unique 64-bit keys (value or weight above, inverted id
//          below), thresholds are found a bit at a time, and the draw falls on a sum in ascending
//          id.
// Oracle   worker/engine/sampler.h, tests/contract/kernels/sample_test.cc: the same id, always.
#pragma once

#include "common/base/exact_exp.h"
#include "common/base/philox.h"
#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/ops/sample.h"

namespace choir::cuda {

inline constexpr int kSampleThreads = 256;
inline constexpr int kIdBits = 19;
inline constexpr int64_t kVocabMax = (int64_t{1} << kIdBits) - 1;

struct SampleKernel {
  const float* logits;
  const SampleRow* rows;
  int32_t* ids;
  int64_t vocab;

  // A number that orders as (value, then lower id first); NaN as -inf, -0 as 0.
  CHOIR_DEVICE static uint64_t ValueKey(float v, int64_t id) {
    const auto bits = std::bit_cast<uint32_t>((v == v ? v : -kInfinity) + 0.0f);
    const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
    return (uint64_t{ordered} << 32) | (0xffffffffu - static_cast<uint32_t>(id));
  }
  CHOIR_DEVICE static int64_t IdOfValueKey(uint64_t key) {
    return 0xffffffffu - static_cast<uint32_t>(key);
  }
  CHOIR_DEVICE static uint64_t WeightKey(uint64_t weight, int64_t id) {
    return (weight << kIdBits) | static_cast<uint64_t>(kVocabMax - id);
  }

  // What is kept so far: tokens whose value key and weight key reach these, and whose weight does.
  struct Kept {
    const float* values;
    double max, scale;
    uint64_t value_key = 0;
    uint64_t weight_key = 0;
    double least = 0.0;

    // 0 for what is not kept: it weighs nothing.
    CHOIR_DEVICE uint64_t Weight(int64_t id) const {
      if (ValueKey(values[id], id) < value_key) return 0;
      const uint64_t w = ExactWeightOf((static_cast<double>(values[id]) - max) * scale);
      return WeightKey(w, id) >= weight_key && static_cast<double>(w) >= least ? w : 0;
    }
  };

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    auto* scratch = reinterpret_cast<uint64_t*>(block.shared());  // [kWarp]
    uint64_t* sums = scratch + kWarp;                             // [threads]
    const SampleRow row = rows[block.x()];
    const float* values = logits + block.x() * vocab;
    uint64_t best_key = 0;
    for (int64_t i = block.thread(); i < vocab; i += block.threads()) {
      const uint64_t key = ValueKey(values[i], i);
      best_key = key > best_key ? key : best_key;
    }
    const int64_t best = IdOfValueKey(BlockMax(block, best_key, scratch));
    if (block.thread() == 0) ids[block.x()] = static_cast<int32_t>(best);  // unless drawn below
    if (!(row.temperature > 0.0)) return;
    const double temperature = row.temperature > 1e-300 ? row.temperature : 1e-300;
    Kept kept{values, static_cast<double>(values[best]), 1.0 / temperature};
    if (row.top_k > 0 && row.top_k < vocab) kept.value_key = KeepBest(block, values, row, scratch);
    if (row.top_p < 1.0) kept.weight_key = KeepNucleus(block, kept, row.top_p, scratch);
    kept.least = row.min_p * kWeightOne;
    Draw(block, kept, UniformFor(row.seed, row.choice, row.position), sums);
  }

  // The key of the top_k-th best value: the largest that top_k keys reach.
  template <class Block>
  CHOIR_DEVICE uint64_t KeepBest(Block& block, const float* values, const SampleRow& row,
                                 uint64_t* scratch) const {
    uint64_t key = 0;
    for (int bit = 63; bit >= 0; --bit) {
      const uint64_t tried = key | (uint64_t{1} << bit);
      uint64_t count = 0;
      for (int64_t i = block.thread(); i < vocab; i += block.threads()) {
        count += ValueKey(values[i], i) >= tried;
      }
      if (BlockSum(block, count, scratch) >= static_cast<uint64_t>(row.top_k)) key = tried;
    }
    return key;
  }

  // The largest weight key such that those who reach it weigh top_p of all; at most the heaviest's.
  template <class Block>
  CHOIR_DEVICE uint64_t KeepNucleus(Block& block, const Kept& kept, double top_p,
                                    uint64_t* scratch) const {
    uint64_t total = 0;
    uint64_t heaviest = 0;
    for (int64_t i = block.thread(); i < vocab; i += block.threads()) {
      const uint64_t w = kept.Weight(i);
      total += w;
      heaviest = w > 0 && WeightKey(w, i) > heaviest ? WeightKey(w, i) : heaviest;
    }
    total = BlockSum(block, total, scratch);
    heaviest = BlockMax(block, heaviest, scratch);
    const double share = top_p > 0.0 ? top_p : 0.0;
    const auto wanted = static_cast<uint64_t>(share * static_cast<double>(total));
    uint64_t key = 0;
    for (int bit = 63; bit >= 0; --bit) {
      const uint64_t tried = key | (uint64_t{1} << bit);
      uint64_t sum = 0;
      for (int64_t i = block.thread(); i < vocab; i += block.threads()) {
        const uint64_t w = kept.Weight(i);
        if (WeightKey(w, i) >= tried) sum += w;
      }
      if (BlockSum(block, sum, scratch) >= wanted) key = tried;
    }
    return key < heaviest ? key : heaviest;
  }

  // Each thread has a run of neighbouring ids; the draw falls into one of them.
  template <class Block>
  CHOIR_DEVICE void Draw(Block& block, const Kept& kept, double uniform, uint64_t* sums) const {
    const int64_t run = CeilDiv(vocab, block.threads());
    const int64_t begin = block.thread() * run;
    const int64_t end = begin + run < vocab ? begin + run : vocab;
    uint64_t own = 0;
    for (int64_t i = begin; i < end; ++i) own += kept.Weight(i);
    sums[block.thread()] = own;
    block.Sync();
    uint64_t before = 0;
    uint64_t total = 0;
    for (int t = 0; t < block.threads(); ++t) {
      if (t == block.thread()) before = total;
      total += sums[t];
    }
    const auto target = static_cast<uint64_t>(uniform * static_cast<double>(total));
    if (target < before || target >= before + own) return;
    uint64_t sum = before;
    for (int64_t i = begin; i < end; ++i) {
      sum += kept.Weight(i);
      if (sum <= target) continue;
      ids[block.x()] = static_cast<int32_t>(i);
      return;
    }
  }
};

template <class Runner>
void Sample(const SampleArgs& a, const Runner& run) {
  const int64_t vocab = a.logits.dim(1);
  CHOIR_CHECK(vocab > 0 && vocab <= kVocabMax);
  CHOIR_CHECK(static_cast<int64_t>(a.rows.size()) == a.logits.dim(0));
  Upload<Runner> upload(run);
  run({.x = a.logits.dim(0),
       .threads = kSampleThreads,
       .shared_bytes = (kWarp + kSampleThreads) * static_cast<int64_t>(sizeof(uint64_t))},
      SampleKernel{a.logits.f32(), upload(a.rows), a.ids.template data<int32_t>(), vocab});
}

}  // namespace choir::cuda
