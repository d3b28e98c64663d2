// Rows of activations in f32 as the bf16 rows that products take.
#pragma once

#include "kernels/cuda/hopper/widen.cuh"
#include "kernels/cuda/math.cuh"

namespace choir::cuda {

// y = x in bf16; wide: in the order that WidenWeights has columns.
struct RoundRowsKernel {
  static constexpr int kThreads = 128;
  Elements x;
  bf16* y;
  int64_t width;
  bool wide;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = block.x() * width;
    for (int64_t k = 2 * block.thread(); k < width; k += 2 * block.threads()) {
      const auto in_group = static_cast<int>(k % kWideGroup);
      const int64_t place = wide ? k - in_group + PlaceOf(in_group) : k;
      *reinterpret_cast<uint32_t*>(y + row + place) =
          block.RoundPair(At(x, row + k), At(x, row + k + 1));
    }
  }
};

}  // namespace choir::cuda
