// linear: y = x · wᵀ (+ bias) (+ y); head_project: the same for each head's own matrix.
// Shapes   x [T,K] and y [T,N] f32; w [N,K] f32, bf16, f16, f8 (128x128 scales) or f4 (of 32).
// Bound    flops 2·T·N·K; bytes ≈ N·K·size of w for few rows. As it uses no tensor cores,
//          arithmetic is the wall from about 20 rows on: the second oracle, not the fast path.
// Plan     a block a tile of 16 x 32 (tile.cuh); weights are widened and scaled on their way into
//          shared memory, so every format has one order of sums.
// Oracle   kernels/reference/linear.cc; bounds in tests/contract/kernels/linear_test.cc.
#pragma once

#include "kernels/cuda/simple/tile.cuh"
#include "kernels/ops/linear.h"

namespace choir::cuda {

// x as the product sees it.
CHOIR_DEVICE float Operand(float x, Compute compute) {
  return compute == Compute::kBF16 ? ToF32(ToBF16(x)) : x;
}

constexpr Matrix MatrixOf(const TensorView& w, const TensorView& scale) {
  return {w.raw(), scale.raw(), w.dtype(), w.dim(1), scale.empty() ? 0 : scale.dim(1)};
}

struct LinearKernel {
  const float* x;
  Matrix w;
  Elements bias;  // without data: none
  float* y;
  int64_t rows, outputs;
  Compute compute;
  bool accumulate;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row0 = block.y() * kTileRows;
    const int64_t output0 = block.x() * kTileOutputs;
    const auto tile = MakeTile(
        rows - row0, outputs - output0, w.width,
        [&](int r, int64_t k) { return Operand(x[(row0 + r) * w.width + k], compute); },
        [&](int n, int64_t k) { return At(w, output0 + n, k); });
    float sums[kThreadSums];
    TileProduct(block, tile, sums);
    StoreTile(block, tile, sums, [&](int r, int n, float sum) {
      float* to = y + (row0 + r) * outputs + output0 + n;
      if (bias.data != nullptr) sum += At(bias, output0 + n);
      *to = accumulate ? *to + sum : sum;
    });
  }
};

struct HeadProjectKernel {
  const float* x;
  Elements w;
  float* y;
  int64_t rows, heads, from, to;
  int64_t x_token_stride, x_head_stride, w_head_stride;
  int64_t tiles;  // of one head's outputs
  bool transpose;
  Compute compute;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t head = block.x() / tiles;
    const int64_t row0 = block.y() * kTileRows;
    const int64_t output0 = block.x() % tiles * kTileOutputs;
    const auto tile = MakeTile(
        rows - row0, to - output0, from,
        [&](int r, int64_t k) {
          return Operand(x[(row0 + r) * x_token_stride + head * x_head_stride + k], compute);
        },
        [&](int n, int64_t k) {
          const int64_t i = transpose ? (output0 + n) * from + k : k * to + output0 + n;
          return At(w, head * w_head_stride + i);
        });
    float sums[kThreadSums];
    TileProduct(block, tile, sums);
    StoreTile(block, tile, sums, [&](int r, int n, float sum) {
      y[((row0 + r) * heads + head) * to + output0 + n] = sum;
    });
  }
};

template <class Runner>
void Linear(const LinearArgs& a, const Runner& run) {
  const int64_t rows = a.x.dim(0);
  const int64_t outputs = a.w.dim(0);
  CHOIR_CHECK(a.x.dim(1) == a.w.dim(1) && a.y.dim(0) == rows && a.y.dim(1) == outputs);
  run({.x = CeilDiv(outputs, kTileOutputs),
       .y = CeilDiv(rows, kTileRows),
       .threads = kTileThreads,
       .shared_bytes = kTileShared},
      LinearKernel{.x = a.x.f32(),
                   .w = MatrixOf(a.w, a.w_scale),
                   .bias = {a.bias.raw(), a.bias.dtype()},
                   .y = a.y.f32(),
                   .rows = rows,
                   .outputs = outputs,
                   .compute = a.compute,
                   .accumulate = a.accumulate});
}

template <class Runner>
void HeadProject(const HeadProjectArgs& a, const Runner& run) {
  const int64_t heads = a.x.dim(1);
  const int64_t from = a.x.dim(2);
  const int64_t to = a.y.dim(2);
  const int64_t tiles = CeilDiv(to, kTileOutputs);
  CHOIR_CHECK(a.y.dim(0) == a.x.dim(0) && a.y.dim(1) == heads);
  run({.x = heads * tiles,
       .y = CeilDiv(a.x.dim(0), kTileRows),
       .threads = kTileThreads,
       .shared_bytes = kTileShared},
      HeadProjectKernel{.x = a.x.f32(),
                        .w = {a.w.raw(), a.w.dtype()},
                        .y = a.y.f32(),
                        .rows = a.x.dim(0),
                        .heads = heads,
                        .from = from,
                        .to = to,
                        .x_token_stride = a.x_token_stride != 0 ? a.x_token_stride : heads * from,
                        .x_head_stride = a.x_head_stride != 0 ? a.x_head_stride : from,
                        .w_head_stride = a.w_head_stride,
                        .tiles = tiles,
                        .transpose = a.transpose,
                        .compute = a.compute});
}

}  // namespace choir::cuda
