// permute: rows in the order of their experts; unpermute: back, weighted and summed.
// Shapes   kernels/ops/permute.h: x [T,H]; expert_ids [T,K]; y [T*K,H] f32 or bf16; out [T,H] f32.
// Bound    memory: every row is written (read) once per chosen expert.
// Plan     a block an expert counts ids in front of it and places its own pairs in ascending order
//          by ballots, so rows have one order whatever the grid does (no atomics); then a block a
//          pair copies. Unpermute: a block a token, k ascending.
// Oracle   kernels/reference/gpu_ops.cc, tests/contract/kernels/gpu_ops_test.cc.
#pragma once

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/ops/permute.h"

namespace choir::cuda {

// Block e of E + 1: offsets[e], and row_of of the pairs of expert e. Block E marks the pairs of no
// expert here.
struct PlaceRowsKernel {
  const int32_t* ids;
  int32_t* offsets;
  int32_t* row_of;
  int64_t* counts;  // or null
  int64_t pairs;
  int32_t experts;

  CHOIR_DEVICE bool Here(int32_t id) const { return id >= 0 && id < experts; }

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    auto* scratch = reinterpret_cast<int32_t*>(block.shared());
    const auto expert = static_cast<int32_t>(block.x());
    int32_t before = 0;
    for (int64_t p = block.thread(); p < pairs; p += block.threads()) {
      before += Here(ids[p]) && ids[p] < expert;
    }
    const int32_t begin = BlockSum(block, before, scratch);
    int32_t next = begin;
    if (block.thread() == 0) offsets[expert] = begin;
    for (int64_t p0 = 0; p0 < pairs; p0 += block.threads()) {
      const int64_t p = p0 + block.thread();
      if (expert == experts && p < pairs && !Here(ids[p])) row_of[p] = -1;
      const bool mine = p < pairs && expert < experts && ids[p] == expert;
      const uint32_t flags = block.Ballot(mine);
      if (block.lane() == 0) scratch[block.warp()] = std::popcount(flags);
      block.Sync();
      int32_t row = next + std::popcount(flags & ((1u << block.lane()) - 1));
      for (int w = 0; w < block.threads() / kWarp; ++w) {
        if (w < block.warp()) row += scratch[w];
        next += scratch[w];
      }
      if (mine) row_of[p] = row;
      block.Sync();
    }
    if (counts != nullptr && expert < experts && block.thread() == 0) {
      counts[expert] += next - begin;
    }
  }
};

struct CopyRowsKernel {
  const float* x;
  const int32_t* row_of;
  void* y;
  DType dtype;
  int64_t width, x_stride, top_k;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = row_of[block.x()];
    if (row < 0) return;
    const float* from = x + block.x() / top_k * x_stride;
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      Put(y, dtype, row * width + i, from[i]);
    }
  }
};

// A block a token: the weighted sum of its rows, k ascending.
struct WeightedSumKernel {
  const float* y;
  const int32_t* row_of;  // of each pair, < 0: none; null: pair p has row p
  const float* weights;
  float* out;
  int64_t width, top_k;
  bool accumulate;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t p0 = block.x() * top_k;
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      float sum = 0.0f;
      for (int64_t p = p0; p < p0 + top_k; ++p) {
        const int64_t row = row_of == nullptr ? p : row_of[p];
        if (row >= 0) sum = Fma(weights[p], y[row * width + i], sum);
      }
      float& to = out[block.x() * width + i];
      to = accumulate ? to + sum : sum;
    }
  }
};

template <class Runner>
void Permute(const PermuteArgs& a, const Runner& run) {
  const int64_t pairs = a.expert_ids.num_elements();
  const int64_t experts = a.offsets.dim(0) - 1;
  CHOIR_CHECK(a.row_of.dim(0) == pairs && a.y.dim(0) == pairs && a.y.dim(1) == a.x.dim(1));
  run({.x = experts + 1, .threads = 128, .shared_bytes = kWarp * sizeof(int32_t)},
      PlaceRowsKernel{.ids = a.expert_ids.template data<int32_t>(),
                      .offsets = a.offsets.template data<int32_t>(),
                      .row_of = a.row_of.template data<int32_t>(),
                      .counts = a.counts.empty() ? nullptr : a.counts.template data<int64_t>(),
                      .pairs = pairs,
                      .experts = static_cast<int32_t>(experts)});
  run({.x = pairs, .threads = 128}, CopyRowsKernel{.x = a.x.f32(),
                                                   .row_of = a.row_of.template data<int32_t>(),
                                                   .y = a.y.raw(),
                                                   .dtype = a.y.dtype(),
                                                   .width = a.x.dim(1),
                                                   .x_stride = a.x_pitch(),
                                                   .top_k = a.expert_ids.dim(1)});
}

template <class Runner>
void Unpermute(const UnpermuteArgs& a, const Runner& run) {
  CHOIR_CHECK(a.row_of.num_elements() == a.weights.num_elements() && a.y.dim(1) == a.out.dim(1));
  run({.x = a.out.dim(0), .threads = 128},
      WeightedSumKernel{.y = a.y.f32(),
                        .row_of = a.row_of.template data<int32_t>(),
                        .weights = a.weights.f32(),
                        .out = a.out.f32(),
                        .width = a.out.dim(1),
                        .top_k = a.weights.dim(1),
                        .accumulate = a.accumulate});
}

}  // namespace choir::cuda
