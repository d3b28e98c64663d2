// How a function that runs on the GPU is declared. The kernels of simple/ are templates over the
// block that runs them: GpuBlock (gpu_block.cuh) in the module, an emulated one in tests, so they
// are compiled by nvcc and by the host's compiler from the same lines. This is the one place that
// asks which of them reads it.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define CHOIR_DEVICE __device__ __forceinline__
#define CHOIR_UNROLL _Pragma("unroll")  // of a loop over what is to stay in registers
#else
#define CHOIR_DEVICE inline
#define CHOIR_UNROLL
#endif

namespace choir::cuda {

inline constexpr int kWarp = 32;

// The grid of one kernel. A kernel is a value with `template <class Block> void operator()(Block&)
// const`, called once by each thread of each block. Block: thread(), threads() and x(), y() (its
// place in the grid), lane(), warp(); Sync() (all threads of the block), ShuffleXor(value, mask)
// and Ballot(flag) (all 32 lanes of a warp); Mma(sums, a, b) (mma.sync m16n8k16); shared():
// `shared_bytes` of memory of the block.
struct Grid {
  int64_t x = 1;
  int64_t y = 1;
  int threads = 128;  // a multiple of kWarp, at most 1024
  int64_t shared_bytes = 0;
};

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace choir::cuda
