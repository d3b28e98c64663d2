// Sums and maxima over a warp, by a butterfly, and over a block: its warps in ascending order.
// All threads get the result. The order depends on the number of threads alone.
#pragma once

#include "kernels/cuda/arch.cuh"

namespace choir::cuda {

template <class Block, class T, class Fold>
CHOIR_DEVICE T WarpFold(Block& block, T value, const Fold& fold) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    value = fold(value, block.ShuffleXor(value, mask));
  }
  return value;
}

template <class Block, class T>
CHOIR_DEVICE T WarpSum(Block& block, T value) {
  return WarpFold(block, value, [](T a, T b) { return a + b; });
}

template <class Block, class T>
CHOIR_DEVICE T WarpMax(Block& block, T value) {
  return WarpFold(block, value, [](T a, T b) { return a > b ? a : b; });
}

// scratch: kWarp elements of shared memory, not in use for anything else. Ends with all threads
// past the last read of it.
template <class Block, class T, class Fold>
CHOIR_DEVICE T BlockFold(Block& block, T value, T* scratch, const Fold& fold) {
  value = WarpFold(block, value, fold);
  if (block.lane() == 0) scratch[block.warp()] = value;
  block.Sync();
  T all = scratch[0];
  for (int w = 1; w < block.threads() / kWarp; ++w) all = fold(all, scratch[w]);
  block.Sync();
  return all;
}

template <class Block, class T>
CHOIR_DEVICE T BlockSum(Block& block, T value, T* scratch) {
  return BlockFold(block, value, scratch, [](T a, T b) { return a + b; });
}

template <class Block, class T>
CHOIR_DEVICE T BlockMax(Block& block, T value, T* scratch) {
  return BlockFold(block, value, scratch, [](T a, T b) { return a > b ? a : b; });
}

}  // namespace choir::cuda
