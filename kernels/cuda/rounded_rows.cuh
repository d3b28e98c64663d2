// Rows of activations as the bf16 rows that products take (kernels/ops/rounded_rows.h).
#pragma once

#include "common/tensor/tensor_view.h"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/tensor/load8.cuh"
#include "kernels/ops/rounded_rows.h"

namespace choir::cuda {

// Weights in f8 are widened so that columns of 64 have other places (hopper/widen.cuh).
inline constexpr int kWideGroup = 64;

// The place of a column among its 64. The second of a pair is the next one.
CHOIR_DEVICE constexpr int PlaceOf(int column) {
  const int thread = column / 16;
  const int step = column % 16 / 4;
  return step * 16 + column % 4 / 2 * 8 + thread * 2 + column % 2;
}

// Of rows for weights in f8, or in bf16.
inline RowOrder OrderFor(DType weights) {
  return weights == DType::kF8E4M3 ? RowOrder::kForF8 : RowOrder::kPlain;
}

// Where rows go besides, or nowhere.
struct RoundedTo {
  bf16* data = nullptr;
  int64_t pitch = 0;
  bool for_f8 = false;

  // Columns `column`, which is even, and the next one.
  template <class Block>
  CHOIR_DEVICE void PutPair(Block& block, int64_t row, int64_t column, float first,
                            float second) const {
    const auto in_group = static_cast<int>(column % kWideGroup);
    const int64_t place = for_f8 ? column - in_group + PlaceOf(in_group) : column;
    *reinterpret_cast<uint32_t*>(data + row * pitch + place) = block.RoundPair(first, second);
  }
  // From a multiple of four on.
  template <class Block>
  CHOIR_DEVICE void PutFour(Block& block, int64_t row, int64_t column, const Floats4& four) const {
    PutPair(block, row, column, four.at[0], four.at[1]);
    PutPair(block, row, column + 2, four.at[2], four.at[3]);
  }
};

inline RoundedTo RoundedToOf(const RoundedRows& rows) {
  return {rows.data, rows.pitch, rows.order == RowOrder::kForF8};
}

// A thread eight columns, which it reads in pairs.
struct RoundRowsKernel {
  static constexpr int kThreads = 256;
  static constexpr int kEach = 8;
  Elements x;
  int64_t width, x_stride;
  RoundedTo to;
  bool in_pairs;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t k = (block.y() * kThreads + block.thread()) * kEach;
    if (k >= width) return;
    Wide16 eight;
    CHOIR_UNROLL
    for (int i = 0; i < 4; ++i) {
      eight.words[i] = PairAt(block, block.x() * x_stride + FromOf(k, i));
    }
    *reinterpret_cast<Wide16*>(to.data + block.x() * to.pitch + k) = eight;
  }

 private:
  // The column whose pair has places k + 2i and k + 2i + 1.
  CHOIR_DEVICE int64_t FromOf(int64_t k, int i) const {
    if (!to.for_f8) return k + 2 * i;
    const auto in_group = static_cast<int>(k % kWideGroup);
    return k - in_group + i * 16 + in_group / 16 * 4 + in_group % 16 / 8 * 2;  // PlaceOf's inverse
  }
  template <class Block>
  CHOIR_DEVICE uint32_t PairAt(Block& block, int64_t at) const {
    if (x.dtype == DType::kBF16) {
      const bf16* from = static_cast<const bf16*>(x.data) + at;
      return static_cast<uint32_t>(from[0]) | static_cast<uint32_t>(from[1]) << 16;
    }
    const float* from = static_cast<const float*>(x.data) + at;
    if (!in_pairs) return block.RoundPair(from[0], from[1]);
    const FloatPair pair = *reinterpret_cast<const FloatPair*>(from);
    return block.RoundPair(pair.at[0], pair.at[1]);
  }
};

// x: [rows, width] f32 or bf16, x_stride elements apart. REQUIRES: width is a multiple of 8, for f8
// of 64.
template <class Runner>
void RoundRows(const Runner& run, const Elements& x, int64_t x_stride, int64_t rows, int64_t width,
               const RoundedRows& to) {
  run({.x = rows,
       .y = CeilDiv(width, RoundRowsKernel::kThreads * RoundRowsKernel::kEach),
       .threads = RoundRowsKernel::kThreads},
      RoundRowsKernel{
          x, width, x_stride, RoundedToOf(to),
          reinterpret_cast<uintptr_t>(x.data) % sizeof(FloatPair) == 0 && x_stride % 2 == 0});
}

// What an op gave whose kernel does not round. y: [rows, ...] f32, `width` columns a row.
template <class Runner>
void AlsoRounded(const Runner& run, const TensorView& y, int64_t width, int64_t y_stride,
                 const RoundedRows& rounded) {
  if (rounded.empty()) return;
  RoundRows(run, {y.raw(), DType::kF32}, y_stride, y.dim(0), width, rounded);
}

}  // namespace choir::cuda
