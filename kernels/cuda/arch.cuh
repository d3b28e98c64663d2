// How a function that runs on the GPU is declared. The kernels of simple/, tensor/ and hopper/ are
// templates over the block that runs them: GpuBlock (gpu_block.cuh) or HopperBlock in the module,
// an emulated one in tests, so they are compiled by nvcc and by the host's compiler from the same
// lines. This is the one place that asks which of them reads it.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define CHOIR_DEVICE __device__ __forceinline__
#define CHOIR_UNROLL _Pragma("unroll")    // of a loop over what is to stay in registers
#define CHOIR_ROLLED _Pragma("unroll 1")  // of a loop whose copies would need more of them
#else
#define CHOIR_DEVICE inline
#define CHOIR_UNROLL
#define CHOIR_ROLLED
#endif

namespace choir::cuda {

inline constexpr int kWarp = 32;

// The grid of one kernel. A kernel is a value with `template <class Block> void operator()(Block&)
// const`, called once by each thread of each block. Block: thread(), threads() and x(), y() (its
// place in the grid), lane(), warp(); Sync() (all threads of the block), ShuffleXor(value, mask)
// and Ballot(flag) (all 32 lanes of a warp, each with its own mask); AtomicAdd(to, value) in shared
// memory; Mma(sums, a, b) (mma.sync m16n8k16); LoadMatrices(to, row) and LoadTransposed(to, row)
// (ldmatrix.x4: 8 x 8 of 16 bits each, lane i names row i of 32 in shared memory); RoundPair(low,
// high) to two bf16; shared(): `shared_bytes` of memory of the block; AwaitEarlier(), below.
//
// Copies that run beside the thread's own work: CopyAsync(to, from, there) of 16 bytes to shared
// memory, zeros where not `there`; CommitCopies() ends a group of them; WaitCopies<n>() waits until
// only the n latest groups may be under way. The thread then sees its own, others after a Sync().
struct Grid {
  int64_t x = 1;
  int64_t y = 1;
  int threads = 128;  // a multiple of kWarp, at most 1024
  int64_t shared_bytes = 0;
};

// A kernel may be started while the one ahead of it on its stream still runs (decisions/0046), so
// every thread calls AwaitEarlier(), once, before it reads what kernels write, or writes memory
// that is not the block's own: then all kernels ahead have ended, and what they wrote is there.
// Only weights, which no kernel writes, may be read before. It is called here, but for a kernel
// that says kAwaitsEarlier: that one does something before, and calls it itself in every thread,
// also in those that leave at once.
template <class Block, class Kernel>
CHOIR_DEVICE void RunKernel(Block& block, const Kernel& kernel) {
  if constexpr (!requires { Kernel::kAwaitsEarlier; }) block.AwaitEarlier();
  kernel(block);
}

// What a card offers a launcher's plan. No bit of a result may depend on it.
struct CardLimits {
  int multiprocessors = 0;
  int64_t shared_bytes = 0;  // most of one block
};

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace choir::cuda
