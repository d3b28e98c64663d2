// The block as the GPU has it, and how a kernel is started there.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <nv/target>
#include <span>

#include "common/base/check.h"
#include "kernels/cuda/arch.cuh"
#include "kernels/cuda/early_starts.h"
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
  // Of shared memory. What was there before.
  __device__ __forceinline__ uint32_t AtomicAdd(uint32_t* to, uint32_t value) const {
    return Add(SharedAddress(to), value);
  }
  // In halves, as cards add them: of 64 bits they only compare and swap, again and again where many
  // want one place. Whole after a Sync().
  __device__ __forceinline__ void AtomicAdd(uint64_t* to, uint64_t value) const {
    const auto low = static_cast<uint32_t>(value);
    const uint32_t before = Add(SharedAddress(to), low);
    const uint32_t high = static_cast<uint32_t>(value >> 32) + (before + low < low ? 1 : 0);
    if (high != 0) Add(SharedAddress(to) + sizeof(uint32_t), high);
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
  __device__ __forceinline__ void LoadMatrices(uint32_t (&to)[4], const void* row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
  __device__ __forceinline__ void LoadTransposed(uint32_t (&to)[4], const void* row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
  __device__ __forceinline__ uint32_t RoundPair(float low, float high) const {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
  }
  __device__ __forceinline__ void CopyAsync(void* to, const void* from, bool there) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
  }
  __device__ __forceinline__ void CommitCopies() const {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  template <int kLeft>
  __device__ __forceinline__ void WaitCopies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
  }
  // The next kernel may start once all blocks are so far: so at most two run at a time, and of the
  // second no block begins before all kernels ahead of the first have ended. Nothing in code for
  // cards that start no kernel early.
  __device__ __forceinline__ void AwaitEarlier() const {
    NV_IF_TARGET(NV_PROVIDES_SM_90,
                 (asm volatile("griddepcontrol.wait;\n\tgriddepcontrol.launch_dependents;" ::
                                   : "memory");))
  }
  __device__ __forceinline__ std::byte* shared() const {
    extern __shared__ __align__(16) unsigned char memory[];
    return reinterpret_cast<std::byte*>(memory);
  }

 private:
  static __device__ __forceinline__ uint32_t SharedAddress(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
  }
  static __device__ __forceinline__ uint32_t Add(uint32_t address, uint32_t value) {
    uint32_t before;
    asm volatile("atom.shared.add.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "r"(address), "r"(value)
                 : "memory");
    return before;
  }
};

template <class Kernel>
__global__ void Enter(const __grid_constant__ Kernel kernel) {
  GpuBlock block;
  RunKernel(block, kernel);
}

// The same for a kernel that says with how many threads it runs, and how many of its blocks a
// multiprocessor is to have registers for.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksLeast)
    EnterBounded(const __grid_constant__ Kernel kernel) {
  GpuBlock block;
  RunKernel(block, kernel);
}

template <class Kernel>
constexpr auto EntryOf() {
  if constexpr (requires { Kernel::kBlocksLeast; }) {
    return EnterBounded<Kernel>;
  } else {
    return Enter<Kernel>;
  }
}

// Whether the code that the calling thread's device runs of a kernel has AwaitEarlier: by what it
// was compiled from, for a newer card may run code of an older one. Asked once a kernel and device.
template <auto kEnter>
bool CanStartEarly() {
  static std::atomic<uint64_t> answers{0};  // two bits a device: it was asked, yes
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= 32) return false;
  uint64_t answer = answers.load(std::memory_order_relaxed) >> 2 * device & 3;
  if (answer == 0) {
    cudaFuncAttributes of = {};
    answer = cudaFuncGetAttributes(&of, kEnter) == cudaSuccess && of.ptxVersion >= 90 ? 3 : 1;
    answers.fetch_or(answer << 2 * device, std::memory_order_relaxed);
  }
  return answer == 3;
}

// Starts kernels on one stream. Errors of a start are sticky in the runtime and found by
// DeviceTable::poll. Host values that a kernel needs go ahead of it through the workspace.
class GpuRunner {
 public:
  explicit GpuRunner(const KernelStream& stream) : stream_(stream) {}

  template <class Kernel>
  void operator()(const Grid& grid, const Kernel& kernel) const {
    Start<EntryOf<Kernel>()>(grid, kernel);
  }

  // Pageable memory is taken over before the call returns; the copy waits for earlier kernels. In a
  // graph it would be read again when the graph runs, and not be there: ends the capture instead,
  // as what a capture does not allow does.
  void Copy(void* device, const void* host, size_t bytes) const {
    const auto stream = static_cast<cudaStream_t>(stream_.native);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream, &capture) != cudaSuccess ||
        capture != cudaStreamCaptureStatusNone) {
      (void)cudaStreamSynchronize(stream);
      return;
    }
    (void)cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream);
  }
  std::span<std::byte> workspace() const { return stream_.workspace; }
  // Of the calling thread's device; a card that does not answer has one block's worth of all.
  CardLimits card() const {
    int device = 0;
    int multiprocessors = 1;
    int shared = 99 * 1024;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    (void)cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return {multiprocessors, shared};
  }

 protected:
  template <auto kEnter, class Kernel>
  void Start(const Grid& grid, const Kernel& kernel) const {
    if (grid.x == 0 || grid.y == 0) return;
    // Above 48 KiB is asked for; more than 99 KiB, which all have, is of Hopper's or asks card().
    if (grid.shared_bytes > 48 * 1024) {
      (void)cudaFuncSetAttribute(kEnter, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(grid.shared_bytes));
    }
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream_.native);
    config.attrs = &early;
    config.numAttrs =
        early_starts.load(std::memory_order_relaxed) && CanStartEarly<kEnter>() ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kEnter, kernel);
  }

 private:
  KernelStream stream_;
};

}  // namespace choir::cuda
