// Shared memory of a block of attention on tensor cores, and fragments out of it.
//
// Lines of bf16 are a multiple of 64 columns long. Their units of 8 columns, 16 bytes, lie at
// unit ^ (line % 8): eight lines' same unit, what a matrix load reads at once, is in eight
// different sets of banks.
#pragma once

#include "kernels/cuda/tensor/attend_problem.cuh"

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

// Sizes of a block's memory, in bytes or elements.
struct AttendSizes {
  int32_t queries;
  int32_t k_pitch, v_pitch;  // v_pitch 0: values are columns of keys
  int32_t stages;            // tiles of keys at a time: 2: the next is on its way

  CHOIR_DEVICE int32_t StageElements() const { return kTileKeys * (k_pitch + v_pitch); }
};

inline constexpr int kFloatsOfQuery = 12;

constexpr int64_t SharedBytes(const AttendSizes& s) {
  const int64_t halves = int64_t{s.queries} * (s.k_pitch + kTileKeys) +
                         int64_t{s.stages} * kTileKeys * (s.k_pitch + s.v_pitch);
  return halves * static_cast<int64_t>(sizeof(bf16)) +
         int64_t{s.queries} * kFloatsOfQuery * static_cast<int64_t>(sizeof(float));
}

inline constexpr int kKeyWarps = 4;  // share the keys of a tile: 16 each

// Everything at a distance from one address that is known when compiled, but for stages.
template <int kQueries>
struct TileMemory {
  std::byte* base;
  int32_t k_pitch;

  CHOIR_DEVICE float* Floats(int of_query) const {
    return reinterpret_cast<float*>(base) + of_query * kQueries;
  }
  // [2][queries]: largest score of the chunk so far; tiles use them in turn
  CHOIR_DEVICE float* tops() const { return Floats(0); }
  CHOIR_DEVICE float* sums() const { return Floats(2); }
  // What a tile of keys leaves of earlier results.
  CHOIR_DEVICE float* keeps() const { return Floats(3); }
  // [queries][kKeyWarps]; between chunks: keep and add of Folds
  CHOIR_DEVICE float* maxima() const { return Floats(4); }
  // [2][queries]: top and sum of the chunks before
  CHOIR_DEVICE float* earlier() const { return Floats(8); }
  CHOIR_DEVICE int32_t* position() const {  // -1: no query
    return reinterpret_cast<int32_t*>(Floats(10));
  }
  CHOIR_DEVICE int32_t* row() const { return reinterpret_cast<int32_t*>(Floats(11)); }

  CHOIR_DEVICE bf16* Halves() const { return reinterpret_cast<bf16*>(Floats(kFloatsOfQuery)); }
  // exp(score - top)
  CHOIR_DEVICE Lines p() const { return {Halves(), kTileKeys}; }
  CHOIR_DEVICE Lines q() const { return {Halves() + kQueries * kTileKeys, k_pitch}; }
  // Keys, then values, of each stage.
  CHOIR_DEVICE bf16* stages() const { return Halves() + kQueries * (kTileKeys + k_pitch); }
};

}  // namespace choir::cuda
