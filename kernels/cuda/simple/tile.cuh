// A tile of a product x · wᵀ in plain FP32 FMA, shared by all products of simple/: 16 rows by 32
// outputs for a block of 128 threads, K taken 32 columns at a time through shared memory.
//
// Order of a sum: four lanes (columns k, k + 4, k + 8, ... for k = 0..3), each ascending by FMA,
// then (lane 0 + lane 1) + (lane 2 + lane 3). Columns past K count as 0 · 0, which changes nothing.
// So an output's bits depend on its row and its weights alone.
#pragma once

#include "kernels/cuda/math.cuh"

namespace choir::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kTileOutputs = 32;
inline constexpr int kTileColumns = 32;
inline constexpr int kTileThreads = 128;
inline constexpr int kThreadSums = 4;  // rows of one thread, kTileThreads / kTileOutputs apart
inline constexpr int64_t kTileShared =
    static_cast<int64_t>(sizeof(float)) *
    (kTileRows * kTileColumns + kTileOutputs * (kTileColumns + 1));

// x(row, k) and w(output, k): elements of the tile's rows, asked for only where row and output
// exist and k < width.
template <class X, class W>
struct TileSource {
  int rows, outputs;  // that exist of this tile
  int64_t width;
  X x;
  W w;
};

template <class X, class W>
CHOIR_DEVICE TileSource<X, W> MakeTile(int64_t rows, int64_t outputs, int64_t width, const X& x,
                                       const W& w) {
  return {static_cast<int>(rows < kTileRows ? rows : kTileRows),
          static_cast<int>(outputs < kTileOutputs ? outputs : kTileOutputs), width, x, w};
}

CHOIR_DEVICE int TileOutput(int thread) { return thread % kTileOutputs; }
CHOIR_DEVICE int TileRow(int thread, int i) {
  return thread / kTileOutputs + i * (kTileThreads / kTileOutputs);
}

// sums[i]: of row TileRow(thread, i) and output TileOutput(thread). All threads of the block call;
// shared memory is free again on return.
template <class Block, class X, class W>
CHOIR_DEVICE void TileProduct(Block& block, const TileSource<X, W>& tile,
                              float (&sums)[kThreadSums]) {
  auto* x = reinterpret_cast<float*>(block.shared());  // [kTileRows][kTileColumns]
  float* w = x + kTileRows * kTileColumns;             // [kTileOutputs][kTileColumns + 1]
  const int output = TileOutput(block.thread());
  float lanes[kThreadSums][4] = {};
  for (int64_t k0 = 0; k0 < tile.width; k0 += kTileColumns) {
    for (int i = block.thread(); i < kTileRows * kTileColumns; i += kTileThreads) {
      const int row = i / kTileColumns;
      const int64_t k = k0 + i % kTileColumns;
      x[i] = row < tile.rows && k < tile.width ? tile.x(row, k) : 0.0f;
    }
    for (int i = block.thread(); i < kTileOutputs * kTileColumns; i += kTileThreads) {
      const int n = i / kTileColumns;
      const int64_t k = k0 + i % kTileColumns;
      w[n * (kTileColumns + 1) + i % kTileColumns] =
          n < tile.outputs && k < tile.width ? tile.w(n, k) : 0.0f;
    }
    block.Sync();
    for (int k = 0; k < kTileColumns; ++k) {
      const float factor = w[output * (kTileColumns + 1) + k];
      for (int i = 0; i < kThreadSums; ++i) {
        const float value = x[TileRow(block.thread(), i) * kTileColumns + k];
        lanes[i][k % 4] = Fma(value, factor, lanes[i][k % 4]);
      }
    }
    block.Sync();
  }
  for (int i = 0; i < kThreadSums; ++i) {
    sums[i] = (lanes[i][0] + lanes[i][1]) + (lanes[i][2] + lanes[i][3]);
  }
}

// Calls put(row, output, sum) for the sums of this thread that exist.
template <class Block, class Tile, class PutSum>
CHOIR_DEVICE void StoreTile(Block& block, const Tile& tile, const float (&sums)[kThreadSums],
                            const PutSum& put) {
  const int output = TileOutput(block.thread());
  for (int i = 0; i < kThreadSums; ++i) {
    const int row = TileRow(block.thread(), i);
    if (row < tile.rows && output < tile.outputs) put(row, output, sums[i]);
  }
}

}  // namespace choir::cuda
