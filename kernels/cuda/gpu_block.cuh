// The block as the GPU has it, and how a kernel is started there.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstring>
#include <span>

#include "common/base/check.h"
#include "kernels/cuda/arch.cuh"
#include "kernels/cuda/kernel_table.h"

namespace choir::cuda {

struct GpuBlock {
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ int lane() const { return thread() % kWarp; }
  __device__ __forceinline__ int warp() const { return thread() / kWarp; }
  __device__ __forceinline__ int64_t x() const { return blockIdx.x; }
  __device__ __forceinline__ int64_t y() const { return blockIdx.y; }
  __device__ __forceinline__ void Sync() const { __syncthreads(); }
  template <class T>
  __device__ __forceinline__ T ShuffleXor(T value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }
  __device__ __forceinline__ uint32_t Ballot(bool flag) const {
    return __ballot_sync(0xffffffffu, flag);
  }
  // d += a · b, 16 x 8 += 16 x 16 · 16 x 8, of the whole warp; bf16 with FP32 sums.
  __device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4],
                                      const uint32_t (&b)[2]) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  __device__ __forceinline__ std::byte* shared() const {
    extern __shared__ __align__(16) unsigned char memory[];
    return reinterpret_cast<std::byte*>(memory);
  }
};

template <class Kernel>
__global__ void Enter(const __grid_constant__ Kernel kernel) {
  GpuBlock block;
  kernel(block);
}

// Starts kernels on one stream. Errors of a start are sticky in the runtime and found by
// DeviceTable::poll. Host values that a kernel needs go ahead of it through the workspace.
class GpuRunner {
 public:
  explicit GpuRunner(const KernelStream& stream) : stream_(stream) {}

  template <class Kernel>
  void operator()(const Grid& grid, const Kernel& kernel) const {
    if (grid.x == 0 || grid.y == 0) return;
    // Above 48 KiB has to be asked for; kernels of simple/ stay below 99 KiB, which all have.
    if (grid.shared_bytes > 48 * 1024) {
      (void)cudaFuncSetAttribute(Enter<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(grid.shared_bytes));
    }
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
    Enter<Kernel>
        <<<blocks, static_cast<unsigned>(grid.threads), static_cast<size_t>(grid.shared_bytes),
           static_cast<cudaStream_t>(stream_.native)>>>(kernel);
  }

  // Pageable memory is taken over before the call returns; the copy waits for earlier kernels.
  void Copy(void* device, const void* host, size_t bytes) const {
    (void)cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice,
                          static_cast<cudaStream_t>(stream_.native));
  }
  std::span<std::byte> workspace() const { return stream_.workspace; }

 private:
  KernelStream stream_;
};

}  // namespace choir::cuda
