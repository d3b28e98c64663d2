// permute and unpermute: the second rung, no tensor cores in it.
// Shapes   as simple/permute.cuh. Rows that are no multiple of 16 bytes, or a workspace without
//          room for the counts: the simple way.
// Bound    of the places: P · 4 bytes in and out for P pairs, and E counts a chunk: 0.4 MB for 4096
//          tokens of 8 of 256 experts, nothing beside three starts of kernels. Of the rows: memory;
//          7,168 columns from f32 to bf16 are 587 MB for those tokens, 122 us on an H200.
// Plan     pairs in at most 128 chunks. A block a chunk counts, a thread an expert; then a block a
//          chunk sums the counts before its own, of all experts, and places its pairs in ascending
//          order: no atomics, one order. One chunk (256 pairs) is counted where it is placed. The
//          simple kernel reads all pairs twice for each expert. Then as many threads as a token's
//          row has fours of columns, 256 at most, read it once and write it to all its places: a
//          block a token, or several where rows are narrow. Counted, not run: 1 and 3 us for the
//          places of 4,096 tokens, besides the starts; 1 us for rows of 4 columns, of 64 blocks,
//          where a block a token is 4 rounds of blocks.
// Oracle   kernels/reference/gpu_ops.cc, tests/contract/kernels/gpu_ops_test.cc.
#pragma once

#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/simple/permute.cuh"
#include "kernels/cuda/tensor/load8.cuh"

namespace choir::cuda {

inline constexpr int kPairThreads = 256;
inline constexpr int64_t kPairChunksMax = 128;

// Calls see(i) for each of the first n ids, rounded up to four, that are the expert's; ascending.
template <class See>
CHOIR_DEVICE void ForPairsOf(const int32_t* ids, int n, int32_t expert, const See& see) {
  for (int i = 0; i < n; i += 4) {
    const auto four = *reinterpret_cast<const Wide16*>(ids + i);
    CHOIR_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (static_cast<int32_t>(four.words[j]) == expert) see(i + j);
    }
  }
}

// Pairs [begin, end) of a chunk, kPairThreads at a time through shared memory: calls
// see(first, count) with them there, at block.shared().
struct PairChunks {
  const int32_t* ids;
  int64_t pairs, of_chunk;
  int32_t experts;

  int64_t count() const { return CeilDiv(pairs, of_chunk); }

  template <class Block, class See>
  CHOIR_DEVICE void ForPieces(Block& block, const See& see) const {
    auto* here = reinterpret_cast<int32_t*>(block.shared());
    const int64_t begin = block.x() * of_chunk;
    const int64_t end = begin + of_chunk < pairs ? begin + of_chunk : pairs;
    for (int64_t p0 = begin; p0 < end; p0 += kPairThreads) {
      const int64_t p = p0 + block.thread();
      here[block.thread()] = p < end ? ids[p] : -1;  // of no expert
      block.Sync();
      see(p0, static_cast<int>(end - p0 < kPairThreads ? end - p0 : kPairThreads));
      block.Sync();
    }
  }
  // Of this chunk's pairs, how many are the expert's.
  template <class Block>
  CHOIR_DEVICE int32_t CountOf(Block& block, int32_t expert) const {
    const auto* here = reinterpret_cast<const int32_t*>(block.shared());
    int32_t count = 0;
    ForPieces(block, [&](int64_t, int n) { ForPairsOf(here, n, expert, [&](int) { ++count; }); });
    return count;
  }
};

// counts [chunks, experts]: of 256 experts from block.y() · 256 on.
struct CountPairsKernel {
  PairChunks chunks;
  int32_t* counts;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const auto expert = static_cast<int32_t>(block.y() * kPairThreads + block.thread());
    const int32_t count = chunks.CountOf(block, expert);
    if (expert < chunks.experts) counts[block.x() * chunks.experts + expert] = count;
  }
};

struct PlacePairsKernel {
  static constexpr int kWarps = kPairThreads / kWarp;
  // ids of a piece; a sum a warp.
  static constexpr int64_t kShared = (kPairThreads + kWarp) * static_cast<int64_t>(sizeof(int32_t));

  PairChunks chunks;
  const int32_t* counts;  // null: of the one chunk there is, counted here
  int32_t* offsets;
  int32_t* row_of;
  int64_t* rows_of_experts;  // or null
  int64_t num_chunks;

  // Of block.y()'s 256 experts, those of this thread.
  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    auto* scratch = reinterpret_cast<int32_t*>(block.shared()) + kPairThreads;
    int32_t first = 0;  // rows of all experts before these
    for (int64_t y = 0; y < block.y(); ++y) first += Sum(block, Total(block, y), scratch).all;
    int32_t before = 0;
    const int32_t total = Total(block, block.y(), &before);
    const Sums sums = Sum(block, total, scratch);
    const auto expert = static_cast<int32_t>(block.y() * kPairThreads + block.thread());
    int32_t next = first + sums.below;
    if (block.x() == 0 && expert < chunks.experts) offsets[expert] = next;
    if (block.x() == 0 && expert < chunks.experts && rows_of_experts != nullptr) {
      rows_of_experts[expert] += total;
    }
    if (block.x() == 0 && expert == chunks.experts - 1) offsets[chunks.experts] = next + total;
    next += before;
    const auto* here = reinterpret_cast<const int32_t*>(block.shared());
    chunks.ForPieces(block, [&](int64_t p0, int n) {
      const int own = block.thread();
      const bool mine = block.y() == 0 && own < n;
      if (mine && (here[own] < 0 || here[own] >= chunks.experts)) row_of[p0 + own] = -1;
      if (expert >= chunks.experts) return;
      ForPairsOf(here, n, expert, [&](int i) { row_of[p0 + i] = next++; });
    });
  }

 private:
  struct Sums {
    int32_t below, all;
  };

  // Rows of this thread's expert; in chunks before this block's, too.
  template <class Block>
  CHOIR_DEVICE int32_t Total(Block& block, int64_t y, int32_t* before = nullptr) const {
    const int64_t expert = y * kPairThreads + block.thread();
    int32_t total = 0;
    if (counts == nullptr) total = chunks.CountOf(block, static_cast<int32_t>(expert));
    if (expert >= chunks.experts) return 0;
    if (counts == nullptr) return total;
    constexpr int kAtOnce = 32;  // under way together: a load from L2 takes as long as 500 adds
    for (int64_t c0 = 0; c0 < num_chunks; c0 += kAtOnce) {
      int32_t some[kAtOnce];
      CHOIR_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        some[j] = c0 + j < num_chunks ? counts[(c0 + j) * chunks.experts + expert] : 0;
      }
      CHOIR_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        if (before != nullptr && c0 + j == block.x()) *before = total;
        total += some[j];
      }
    }
    return total;
  }

  // Over the block's threads: of those below this one, and of all.
  template <class Block>
  CHOIR_DEVICE Sums Sum(Block& block, int32_t value, int32_t* scratch) const {
    int32_t below = 0;
    int32_t all = value;
    CHOIR_UNROLL
    for (int mask = 1; mask < kWarp; mask *= 2) {
      const int32_t other = block.ShuffleXor(all, mask);
      if ((block.lane() & mask) != 0) below += other;
      all += other;
    }
    if (block.lane() == 0) scratch[block.warp()] = all;
    block.Sync();
    Sums sums{below, 0};
    for (int w = 0; w < kWarps; ++w) {
      if (w < block.warp()) sums.below += scratch[w];
      sums.all += scratch[w];
    }
    block.Sync();
    return sums;
  }
};

inline constexpr int kTokenThreadsMost = 256, kTokenThreadsLeast = 64;  // of a block

// Which token is a thread's, and which columns: four at a time. A power of two of threads a token,
// as many as a row has fours of columns where that is less than a block.
struct TokenThreads {
  int64_t tokens;
  int32_t of_token;

  static TokenThreads Of(int64_t tokens, int64_t width) {
    int32_t threads = 1;
    while (threads < kTokenThreadsMost && threads * 4 < width) threads *= 2;
    return {tokens, threads};
  }
  Grid GridOf() const {
    const int threads = of_token < kTokenThreadsLeast ? kTokenThreadsLeast : of_token;
    return {.x = CeilDiv(tokens * of_token, threads), .threads = threads};
  }
  // Calls see(token, column) for each four of the thread's columns.
  template <class Block, class See>
  CHOIR_DEVICE void ForFours(Block& block, int64_t width, const See& see) const {
    const int64_t token = block.x() * (block.threads() / of_token) + block.thread() / of_token;
    if (token >= tokens) return;
    for (int64_t i = block.thread() % of_token * 4; i < width; i += of_token * 4) see(token, i);
  }
};

// A token's row to all its places.
struct SpreadRowsKernel {
  TokenThreads threads;
  const float* x;
  const int32_t* row_of;
  void* y;
  DType dtype;
  int64_t width, x_stride;
  int32_t top_k;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    threads.ForFours(block, width, [&](int64_t token, int64_t i) {
      const int32_t* rows = row_of + token * top_k;
      const auto four = *reinterpret_cast<const Floats4*>(x + token * x_stride + i);
      for (int k = 0; k < top_k; ++k) {
        if (rows[k] < 0) continue;
        const int64_t to = rows[k] * width + i;
        PutFour(y, dtype, to, four);
      }
    });
  }
};

// Of each column the simple kernel's sum.
struct GatherSumKernel {
  TokenThreads threads;
  const float* y;
  const int32_t* row_of;
  const float* weights;
  float* out;
  int64_t width;
  int32_t top_k;
  bool accumulate;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    threads.ForFours(block, width, [&](int64_t token, int64_t i) {
      const int64_t p0 = token * top_k;
      Floats4 sum = {};
      for (int k = 0; k < top_k; ++k) {
        const int32_t row = row_of[p0 + k];
        if (row < 0) continue;
        const auto four = *reinterpret_cast<const Floats4*>(y + row * width + i);
        CHOIR_UNROLL
        for (int j = 0; j < 4; ++j) sum.at[j] = Fma(weights[p0 + k], four.at[j], sum.at[j]);
      }
      auto* to = reinterpret_cast<Floats4*>(out + token * width + i);
      if (accumulate) {
        const Floats4 earlier = *to;
        CHOIR_UNROLL
        for (int j = 0; j < 4; ++j) sum.at[j] = earlier.at[j] + sum.at[j];
      }
      *to = sum;
    });
  }
};

inline bool IsWide(const TensorView& t) {
  return reinterpret_cast<uintptr_t>(t.raw()) % sizeof(Floats4) == 0 && t.dim(1) % 4 == 0;
}

template <class Runner>
void FastPermute(const PermuteArgs& a, const Runner& run) {
  const int64_t pairs = a.expert_ids.num_elements();
  const int64_t experts = a.offsets.dim(0) - 1;
  const int64_t pieces = CeilDiv(CeilDiv(pairs, kPairThreads), kPairChunksMax);
  const PairChunks chunks{.ids = a.expert_ids.template data<int32_t>(),
                          .pairs = pairs,
                          .of_chunk = pieces * kPairThreads,
                          .experts = static_cast<int32_t>(experts)};
  const auto bytes =
      pairs == 0 ? size_t{0} : static_cast<size_t>(chunks.count() * experts) * sizeof(int32_t);
  if (pairs == 0 || experts == 0 || !IsWide(a.x) || a.x_pitch() % 4 != 0 || !IsWide(a.y) ||
      bytes > run.workspace().size()) {
    return Permute(a, run);
  }
  CHOIR_CHECK(a.row_of.dim(0) == pairs && a.y.dim(0) == pairs && a.y.dim(1) == a.x.dim(1));
  auto* counts = chunks.count() == 1 ? nullptr : reinterpret_cast<int32_t*>(run.workspace().data());
  const Grid grid{.x = chunks.count(),
                  .y = CeilDiv(experts, kPairThreads),
                  .threads = kPairThreads,
                  .shared_bytes = PlacePairsKernel::kShared};
  if (counts != nullptr) run(grid, CountPairsKernel{chunks, counts});
  run(grid, PlacePairsKernel{
                .chunks = chunks,
                .counts = counts,
                .offsets = a.offsets.template data<int32_t>(),
                .row_of = a.row_of.template data<int32_t>(),
                .rows_of_experts = a.counts.empty() ? nullptr : a.counts.template data<int64_t>(),
                .num_chunks = chunks.count()});
  const TokenThreads threads = TokenThreads::Of(a.x.dim(0), a.x.dim(1));
  run(threads.GridOf(), SpreadRowsKernel{.threads = threads,
                                         .x = a.x.f32(),
                                         .row_of = a.row_of.template data<int32_t>(),
                                         .y = a.y.raw(),
                                         .dtype = a.y.dtype(),
                                         .width = a.x.dim(1),
                                         .x_stride = a.x_pitch(),
                                         .top_k = static_cast<int32_t>(a.expert_ids.dim(1))});
}

template <class Runner>
void FastUnpermute(const UnpermuteArgs& a, const Runner& run) {
  if (!IsWide(a.y) || !IsWide(a.out)) return Unpermute(a, run);
  CHOIR_CHECK(a.row_of.num_elements() == a.weights.num_elements() && a.y.dim(1) == a.out.dim(1));
  const TokenThreads threads = TokenThreads::Of(a.out.dim(0), a.out.dim(1));
  run(threads.GridOf(), GatherSumKernel{.threads = threads,
                                        .y = a.y.f32(),
                                        .row_of = a.row_of.template data<int32_t>(),
                                        .weights = a.weights.f32(),
                                        .out = a.out.f32(),
                                        .width = a.out.dim(1),
                                        .top_k = static_cast<int32_t>(a.weights.dim(1)),
                                        .accumulate = a.accumulate});
}

}  // namespace choir::cuda
