// Shared memory of a block of MLA on Hopper (mla_tile.cuh): squares of 64 lines of 64 columns in
// bf16, as WGMMA reads them with the 128-byte swizzle, and the barriers between loading and
// computing warpgroups.
#pragma once

#include "kernels/cuda/hopper/operands.cuh"

namespace choir::cuda {

inline constexpr int kMlaQueries = 64;  // WGMMA's lines: heads of a row
inline constexpr int kMlaKeys = 64;     // of a tile
inline constexpr int kMlaLora = 512;
inline constexpr int kMlaRope = 64;
inline constexpr int kMlaColumns = kMlaLora + kMlaRope;
inline constexpr int kMlaSquares = kMlaColumns / 64;       // of queries, and of a tile of keys
inline constexpr int kMlaRopeSquare = kMlaLora / 64;       // the last one
inline constexpr int kMlaHalfSquares = kMlaLora / 64 / 2;  // whose columns a warpgroup sums up
inline constexpr int kMlaStages = 2;
inline constexpr int kMlaGroups = 2;  // that compute
inline constexpr int kMlaThreads = (kMlaGroups + 1) * kWarpgroup;
inline constexpr int kSquareBytes = 64 * kLineBytes;

// Parts of a tile of keys that are free at different times: the columns of either warpgroup, and
// those that are no values.
inline constexpr int kMlaParts = kMlaGroups + 1;
inline constexpr int kMlaRopePart = kMlaGroups;

CHOIR_DEVICE constexpr int PartOfSquare(int square) { return square / kMlaHalfSquares; }

struct MlaMemory {
  static constexpr int kSquaresOfAll = (1 + kMlaStages) * kMlaSquares + 1;
  static constexpr int kFloats = 3 * kMlaQueries;
  static constexpr int kBarriers = kMlaStages * (kMlaSquares + kMlaParts) + kMlaGroups + 1;
  static constexpr int kBytes = kSquaresOfAll * kSquareBytes + kFloats * 4 + kBarriers * 8;
  static_assert(kBytes <= 227 * 1024);

  std::byte* shared;

  CHOIR_DEVICE std::byte* Queries(int square) const { return shared + square * kSquareBytes; }
  CHOIR_DEVICE std::byte* Keys(int stage, int square) const {
    return Queries((1 + stage) * kMlaSquares + square);
  }
  CHOIR_DEVICE std::byte* Shares() const { return Keys(kMlaStages, 0); }
  // Of each query: the largest score of the chunk so far, the sum of shares so far, and what the
  // latest tile leaves of earlier results.
  CHOIR_DEVICE float* Tops() const { return reinterpret_cast<float*>(Shares() + kSquareBytes); }
  CHOIR_DEVICE float* Sums() const { return Tops() + kMlaQueries; }
  CHOIR_DEVICE float* Keeps() const { return Tops() + 2 * kMlaQueries; }

  // Squares of keys are there; parts of a tile are read; shares of a warpgroup's tile are there.
  CHOIR_DEVICE uint64_t* Full(int stage, int square) const {
    return Barrier(stage * kMlaSquares + square);
  }
  CHOIR_DEVICE uint64_t* Empty(int stage, int part) const {
    return Barrier(kMlaStages * kMlaSquares + stage * kMlaParts + part);
  }
  CHOIR_DEVICE uint64_t* SharesThere(int group) const {
    return Barrier(kMlaStages * (kMlaSquares + kMlaParts) + group);
  }
  CHOIR_DEVICE uint64_t* QueriesThere() const { return SharesThere(kMlaGroups); }

  // Where the 16 bytes of `unit` of a line lie.
  CHOIR_DEVICE static std::byte* Unit(std::byte* square, int line, int unit) {
    return square + line * kLineBytes + (unit ^ line % 8) * 16;
  }

  // All threads of the block.
  template <class Block>
  CHOIR_DEVICE void Init(Block& block) const {
    if (block.thread() == 0) {
      for (int stage = 0; stage < kMlaStages; ++stage) {
        for (int i = 0; i < kMlaSquares; ++i) block.InitBarrier(Full(stage, i), kWarpgroup);
        for (int i = 0; i < kMlaParts; ++i) block.InitBarrier(Empty(stage, i), kWarpgroup / kWarp);
      }
      for (int i = 0; i < kMlaGroups; ++i) block.InitBarrier(SharesThere(i), kWarpgroup);
      block.InitBarrier(QueriesThere(), kMlaGroups * kWarpgroup);
      block.FenceBarriers();
    }
    block.Sync();
  }

 private:
  CHOIR_DEVICE uint64_t* Barrier(int i) const {
    return reinterpret_cast<uint64_t*>(Tops() + kFloats) + i;
  }
};

}  // namespace choir::cuda
