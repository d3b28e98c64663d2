// Rows of activations in f32 as the bf16 rows that products take.
#pragma once

#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/hopper/widen.cuh"

namespace choir::cuda {

// y = x in bf16; wide: in the order that WidenWeights has columns. A thread eight of them, which it
// reads in pairs. REQUIRES: width is a multiple of 8 (wide: of 64), y at one of 16 bytes.
struct RoundRowsKernel {
  static constexpr int kThreads = 256;
  static constexpr int kEach = 8;
  Elements x;
  bf16* y;
  int64_t width;
  bool wide, in_pairs;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t k = (block.y() * kThreads + block.thread()) * kEach;
    if (k >= width) return;
    const int64_t row = block.x() * width;
    Wide16 eight;
    CHOIR_UNROLL
    for (int i = 0; i < 4; ++i) eight.words[i] = PairAt(block, row + FromOf(k, i));
    *reinterpret_cast<Wide16*>(y + row + k) = eight;
  }

 private:
  // The column whose pair has places k + 2i and k + 2i + 1.
  CHOIR_DEVICE int64_t FromOf(int64_t k, int i) const {
    if (!wide) return k + 2 * i;
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

template <class Runner>
void RoundRows(const Runner& run, const Elements& x, bf16* y, int64_t rows, int64_t width,
               bool wide) {
  run({.x = rows,
       .y = CeilDiv(width, RoundRowsKernel::kThreads * RoundRowsKernel::kEach),
       .threads = RoundRowsKernel::kThreads},
      RoundRowsKernel{x, y, width, wide,
                      reinterpret_cast<uintptr_t>(x.data) % sizeof(FloatPair) == 0});
}

}  // namespace choir::cuda
