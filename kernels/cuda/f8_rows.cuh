// Rows in f32 as f8 with scales, in the same memory: what is between the products of expert_ffn.
// Shapes   [R, W] f32, W a multiple of 128, at a multiple of 16 bytes. A row's 4·W bytes then hold
//          W codes and, behind those, W / 128 scales.
// Bound    bytes: 5·R·W.
// Plan     a block a row, a warp 128 columns. What is written lies where this round or an earlier
//          one has read; scales wait in shared memory until all is read. Bits are QuantizeF8's.
// Oracle   the simple kernels and kernels/reference, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/fours.cuh"

namespace choir::cuda {

// Of 128 columns whose largest is `size` (kernels/ops/grouped_gemm.h).
CHOIR_DEVICE float F8ScaleOf(float size) { return Max(size, 1e-4f) / 448.0f; }

// Rows::Of(block): the block's row; negative: it has none.
template <class Rows>
struct PackF8Kernel {
  static constexpr int kThreads = 256;
  Rows rows;
  float* x;
  int64_t width;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = rows.Of(block);
    if (row < 0) return;
    auto* scales = reinterpret_cast<float*>(block.shared());  // [width / 128]
    float* from = x + row * width;
    const int64_t parts = width / kF8Side;
    for (int64_t first = 0; first < parts; first += kThreads / kWarp) {
      const int64_t part = first + block.warp();
      const int64_t four = part * kWarp + block.lane();  // columns from 4 · four on
      Floats4 values = {};
      if (part < parts) values = reinterpret_cast<const Floats4*>(from)[four];
      const float scale = F8ScaleOf(Largest(block, values));
      uint32_t codes = 0;
      CHOIR_UNROLL
      for (int i = 0; i < 4; ++i) {
        codes |= static_cast<uint32_t>(ToF8(values.at[i] / scale)) << (8 * i);
      }
      block.Sync();
      if (part >= parts) continue;
      reinterpret_cast<uint32_t*>(from)[four] = codes;
      if (block.lane() == 0) scales[part] = scale;
    }
    block.Sync();
    for (int64_t part = block.thread(); part < parts; part += kThreads) {
      from[width / 4 + part] = scales[part];
    }
  }

 private:
  template <class Block>
  CHOIR_DEVICE static float Largest(Block& block, const Floats4& values) {
    float size = 0.0f;
    CHOIR_UNROLL
    for (const float value : values.at) size = Max(value < 0 ? -value : value, size);
    return WarpMax(block, size);
  }
};

// grid: as many blocks as rows.Of tells apart.
template <class Rows, class Runner>
void PackF8(const Runner& run, Grid grid, const Rows& rows, float* x, int64_t width) {
  grid.threads = PackF8Kernel<Rows>::kThreads;
  grid.shared_bytes = width / kF8Side * static_cast<int64_t>(sizeof(float));
  run(grid, PackF8Kernel<Rows>{rows, x, width});
}

}  // namespace choir::cuda
