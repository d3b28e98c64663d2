// Weights in f8 as bf16 fragments of WGMMA, straight from shared memory.
//
// A fragment wants of a line columns 2t, 2t + 1, 2t + 8 and 2t + 9 of each 16; a thread loads 16
// bytes in one piece, which are the columns 16t to 16t + 15 of 64. So K is taken in another order:
// column c of each 64 is at place PlaceOf(c), and rows are written so for these kernels
// (rounded_rows.cuh).
#pragma once

#include "kernels/cuda/hopper/operands.cuh"
#include "kernels/cuda/rounded_rows.cuh"
#include "kernels/cuda/tensor/load8.cuh"

namespace choir::cuda {

// Two bytes of `four` (0 and 1, or 2 and 3) as bf16: the bits of an f8 put in place are its value
// times 2^-120, subnormals too, and the product with 2^120 is exact. (A NaN becomes 480.)
template <class Block>
CHOIR_DEVICE uint32_t WidenPair(Block& block, uint32_t four, int pair) {
  const uint32_t spread = block.SelectBytes(four, pair == 0 ? 0x1404 : 0x3424);  // 4: a zero
  const uint32_t bits = (spread & 0x80008000u) | (spread >> 4 & 0x07f007f0u);
  return block.ScaleUpPair(bits);
}

// This thread's fragments of four steps of K: half 0 or 1 of 128 columns.
template <class Block>
CHOIR_DEVICE void WidenWeights(Block& block, const std::byte* lines, int half,
                               uint32_t (&a)[4][4]) {
  const int g = block.lane() / 4;
  const int t = block.lane() % 4;
  const int line = block.thread() % kWarpgroup / kWarp * 16 + g;  // and line + 8
  const int unit = (half * 4 + t) ^ g;                            // g is line % 8
  CHOIR_UNROLL
  for (int lower = 0; lower < 2; ++lower) {
    const auto wide =
        *reinterpret_cast<const Wide16*>(lines + (line + lower * 8) * kLineBytes + unit * 16);
    CHOIR_UNROLL
    for (int step = 0; step < 4; ++step) {
      a[step][lower] = WidenPair(block, wide.words[step], 0);
      a[step][lower + 2] = WidenPair(block, wide.words[step], 1);
    }
  }
}

}  // namespace choir::cuda
