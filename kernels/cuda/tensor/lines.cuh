// Lines of bf16 in shared memory, and fragments of Block::Mma out of them.
//
// Lines are a multiple of 64 columns long. Their units of 8 columns, 16 bytes, lie at
// unit ^ (line % 8): eight lines' same unit, what a matrix load reads at once, is in eight
// different sets of banks.
#pragma once

#include "common/tensor/dtype.h"
#include "kernels/cuda/arch.cuh"

namespace choir::cuda {

inline constexpr int kUnit8 = 8;  // columns of a unit

constexpr int32_t LinePitch(int32_t columns) { return (columns + 63) / 64 * 64; }

struct Lines {
  bf16* at;
  int32_t pitch;

  CHOIR_DEVICE bf16* Unit(int line, int unit) const {
    return at + line * pitch + (unit ^ (line % 8)) * kUnit8;
  }
};

// Fragments of Block::Mma (mma_tile.cuh says which thread holds what).
// a: 16 lines from `line` on, 16 columns from `unit` on.
template <class Block>
CHOIR_DEVICE void LoadA(Block& block, const Lines& from, int line, int unit, uint32_t (&a)[4]) {
  const int lane = block.lane();
  block.LoadMatrices(a, from.Unit(line + lane % 16, unit + lane / 16));
}

// Two fragments of b, whose k runs along the line: 16 lines are their 16 outputs.
template <class Block>
CHOIR_DEVICE void LoadB(Block& block, const Lines& from, int line, int unit, uint32_t (&b)[2][2]) {
  const int lane = block.lane();
  uint32_t four[4];
  block.LoadMatrices(four, from.Unit(line + lane % 8 + lane / 16 * 8, unit + lane / 8 % 2));
  CHOIR_UNROLL
  for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = four[i];
}

// Two fragments of b, whose k runs over 16 lines: 16 columns are their 16 outputs.
template <class Block>
CHOIR_DEVICE void LoadAcross(Block& block, const Lines& from, int line, int unit,
                             uint32_t (&b)[2][2]) {
  const int lane = block.lane();
  uint32_t four[4];
  block.LoadTransposed(four, from.Unit(line + lane % 16, unit + lane / 16));
  CHOIR_UNROLL
  for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = four[i];
}

}  // namespace choir::cuda
