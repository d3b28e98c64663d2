// A tile of x · wᵀ on tensor cores: 64 rows by 64 outputs for a block of 128 threads, by mma.sync
// m16n8k16 in bf16 with FP32 sums, which every architecture from 80 on has. A warp takes 16 rows
// and all 64 outputs: 8 fragments of 16 x 8.
//
// Fragments (PTX ISA, "Matrix Fragments for mma.m16n8k16"): with g = lane / 4 and t = lane % 4 a
// thread holds of the sums rows g and g + 8, columns 2t and 2t + 1.
//
// Order of a sum: each 128 columns of K by themselves, in steps of 16 into one accumulator; then
// one FMA with their scale, or 1. Rows and outputs that do not exist are zeros. So an output's bits
// depend on its row and its weights alone, whatever shares the tile.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/tensor/load8.cuh"

namespace choir::cuda {

inline constexpr int kMmaRows = 64;
inline constexpr int kMmaOutputs = 64;
inline constexpr int kMmaColumns = 64;  // of K at a time in shared memory
inline constexpr int kMmaThreads = 128;
inline constexpr int kMmaPitch = kMmaColumns + 8;  // bf16: rows 4 banks apart, no conflicts
inline constexpr int kMmaFragments = kMmaOutputs / 8;
inline constexpr int64_t kMmaShared =
    static_cast<int64_t>(sizeof(bf16)) * (kMmaRows + kMmaOutputs) * kMmaPitch;

struct MmaSums {
  float at[kMmaFragments][4] = {};
};

// Where sum `i` of fragment `f` of this thread lies in the tile.
CHOIR_DEVICE int MmaRow(int thread, int i) {
  return thread / kWarp * 16 + thread % kWarp / 4 + (i >= 2 ? 8 : 0);
}
CHOIR_DEVICE int MmaOutput(int thread, int f, int i) { return f * 8 + thread % 4 * 2 + i % 2; }

// Shared memory holds pairs of bf16, the lower column in the lower half.
CHOIR_DEVICE void PutEight(uint32_t* to, const bf16 (&values)[8]) {
  Wide16 wide;
  CHOIR_UNROLL
  for (int i = 0; i < 4; ++i) {
    wide.words[i] = static_cast<uint32_t>(values[2 * i]) | static_cast<uint32_t>(values[2 * i + 1])
                                                               << 16;
  }
  *reinterpret_cast<Wide16*>(to) = wide;
}

// Adds columns [0, kMmaColumns) of the tile in shared memory to the sums.
template <class Block>
CHOIR_DEVICE void MmaStep(Block& block, const uint32_t* x, const uint32_t* w, MmaSums& sums) {
  constexpr int kLine = kMmaPitch / 2;
  const int g = block.lane() / 4;
  const int t = block.lane() % 4;
  const uint32_t* row = x + (block.warp() * 16 + g) * kLine + t;
  for (int k = 0; k < kMmaColumns / 2; k += 8) {
    const uint32_t a[4] = {row[k], row[8 * kLine + k], row[k + 4], row[8 * kLine + k + 4]};
    CHOIR_UNROLL
    for (int f = 0; f < kMmaFragments; ++f) {
      const uint32_t* column = w + (f * 8 + g) * kLine + t + k;
      const uint32_t b[2] = {column[0], column[4]};
      block.Mma(sums.at[f], a, b);
    }
  }
}

// Adds what 128 columns gave, and begins anew.
template <class Block, class Source>
CHOIR_DEVICE void AddPart(Block& block, const Source& source, int64_t k_block, MmaSums& part,
                          MmaSums& total) {
  CHOIR_UNROLL
  for (int f = 0; f < kMmaFragments; ++f) {
    CHOIR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float scale =
          source.scaled() ? source.Scale(MmaRow(block.thread(), i), f, k_block) : 1.0f;
      total.at[f][i] = Fma(part.at[f][i], scale, total.at[f][i]);
      part.at[f][i] = 0.0f;
    }
  }
}

// Source: rows(), outputs() that exist of the tile; width(); X(row, k, out) and W(output, k, out)
// give eight columns from k on as bf16; scaled(), and if so Scale(row, fragment, k) for 128 columns
// from k.
template <class Block, class Source>
CHOIR_DEVICE void MmaProduct(Block& block, const Source& source, MmaSums& total) {
  auto* x = reinterpret_cast<uint32_t*>(block.shared());  // [kMmaRows][kMmaPitch / 2]
  uint32_t* w = x + kMmaRows * kMmaPitch / 2;             // [kMmaOutputs][kMmaPitch / 2]
  constexpr int kEights = kMmaColumns / 8;
  MmaSums part;
  for (int64_t k0 = 0; k0 < source.width(); k0 += kMmaColumns) {
    for (int i = block.thread(); i < kMmaRows * kEights; i += kMmaThreads) {
      const int line = i / kEights;
      const int column = i % kEights * 8;
      bf16 values[8] = {};
      if (line < source.rows()) source.X(line, k0 + column, values);
      PutEight(x + (line * kMmaPitch + column) / 2, values);
      bf16 weights[8] = {};
      if (line < source.outputs()) source.W(line, k0 + column, weights);
      PutEight(w + (line * kMmaPitch + column) / 2, weights);
    }
    block.Sync();
    MmaStep(block, x, w, part);
    block.Sync();
    const int64_t next = k0 + kMmaColumns;
    if (next % kF8Side == 0 || next >= source.width())
      AddPart(block, source, k0 / kF8Side, part, total);
  }
}

// Calls put(row, output, sum) for this thread's sums that exist.
template <class Block, class Source, class PutSum>
CHOIR_DEVICE void StoreMma(Block& block, const Source& source, const MmaSums& sums,
                           const PutSum& put) {
  CHOIR_UNROLL
  for (int f = 0; f < kMmaFragments; ++f) {
    CHOIR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = MmaRow(block.thread(), i);
      const int output = MmaOutput(block.thread(), f, i);
      if (row < source.rows() && output < source.outputs()) put(row, output, sums.at[f][i]);
    }
  }
}

}  // namespace choir::cuda
