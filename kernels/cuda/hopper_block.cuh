// The block as Hopper has it (hopper/operands.cuh): barriers that count bytes, the copy engine, the
// asynchronous tensor cores. For 90a only; the PTX is here and in hopper_wgmma.cuh, nowhere else.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/gpu_block.cuh"
#include "kernels/cuda/hopper/operands.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"
#include "kernels/cuda/launch_error.h"

namespace choir::cuda {

struct HopperBlock : GpuBlock {
  // Through a shuffle: so the compiler knows that a warp agrees.
  __device__ __forceinline__ int warp() const { return __shfl_sync(0xffffffffu, thread() / 32, 0); }
  __device__ __forceinline__ int warpgroup() const { return warp() / (kWarpgroup / kWarp); }
  __device__ __forceinline__ void SyncWarp() const { __syncwarp(); }
  __device__ __forceinline__ std::byte* shared() const {
    extern __shared__ __align__(1024) unsigned char hopper_memory[];
    return reinterpret_cast<std::byte*>(hopper_memory);
  }
  __device__ __forceinline__ uint32_t SharedAddress(const void* p) const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
  }

  __device__ __forceinline__ void InitBarrier(uint64_t* barrier, uint32_t arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
                 "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void FenceBarriers() const {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __device__ __forceinline__ void FenceAsync() const {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __device__ __forceinline__ void Arrive(uint64_t* barrier) const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier))
                 : "memory");
  }
  __device__ __forceinline__ void ArriveExpecting(uint64_t* barrier, uint32_t bytes) const {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
        "r"(bytes)
        : "memory");
  }
  __device__ __forceinline__ void AwaitPhase(uint64_t* barrier, uint32_t parity) const {
    const uint32_t address = SharedAddress(barrier);
    if (PhaseIsOver(address, parity)) return;
    // Some seconds at any clock: what takes so long never comes. The trap is a sticky error, which
    // ends the process.
    constexpr int64_t kMostCycles = int64_t{1} << 34;
    const int64_t begin = clock64();
    while (!PhaseIsOver(address, parity)) {
      if (clock64() - begin > kMostCycles) __trap();
    }
  }

  __device__ __forceinline__ void PrefetchMap(const TensorMap& map) const {
    asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
  }
  __device__ __forceinline__ void LoadTile(const TensorMap& map, const int32_t (&at)[2],
                                           std::byte* to, uint64_t* barrier) const {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(SharedAddress(to)),
        "l"(reinterpret_cast<uint64_t>(&map)), "r"(at[0]), "r"(at[1]), "r"(SharedAddress(barrier))
        : "memory");
  }
  __device__ __forceinline__ void CopyAsync4(float* to, const float* from) const {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(SharedAddress(to)),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
  }
  __device__ __forceinline__ void ArriveAfterCopies(uint64_t* barrier) const {
    asm volatile(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SharedAddress(barrier))
        : "memory");
  }

  template <bool kF8, int kSums>
  __device__ __forceinline__ void Wgmma(float (&d)[kSums], uint64_t a, uint64_t b, bool add) const {
    if constexpr (kF8) {
      WgmmaF8(d, a, b, add);
    } else {
      WgmmaBF16(d, a, b, add);
    }
  }
  template <bool kF8, int kSums>
  __device__ __forceinline__ void Wgmma(float (&d)[kSums], const uint32_t (&a)[4], uint64_t b,
                                        bool add) const {
    WgmmaBF16(d, a, b, add);
  }
  template <class A>
  __device__ __forceinline__ void WgmmaAcross(float (&d)[128], const A& a, uint64_t b,
                                              bool add) const {
    WgmmaAcrossBF16(d, a, b, add);
  }
  __device__ __forceinline__ void WgmmaFence() const {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  __device__ __forceinline__ void WgmmaCommit() const {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }
  template <int kLeft>
  __device__ __forceinline__ void WgmmaWait() const {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  }
  template <int kSums>
  __device__ __forceinline__ void Pin(float (&d)[kSums]) const {
    CHOIR_UNROLL
    for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(d[i])::"memory");
  }
  __device__ __forceinline__ float QuickExp2(float x) const {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
  }
  __device__ __forceinline__ float QuickSigmoid(float x) const {
    return __fdividef(1.0f, 1.0f + __expf(-x));
  }
  __device__ __forceinline__ uint32_t SelectBytes(uint32_t bytes, uint32_t selector) const {
    return __byte_perm(bytes, 0, selector);
  }
  __device__ __forceinline__ uint32_t ScaleUpPair(uint32_t pair) const {
    uint32_t out;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(pair), "r"(0x7b807b80u));  // 2^120, twice
    return out;
  }

  template <int kRegisters>
  __device__ __forceinline__ void GiveRegisters() const {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
  }
  template <int kRegisters>
  __device__ __forceinline__ void TakeRegisters() const {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
  }

 private:
  __device__ __forceinline__ static bool PhaseIsOver(uint32_t address, uint32_t parity) {
    uint32_t over;
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(over)
        : "r"(address), "r"(parity)
        : "memory");
    return over != 0;
  }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    EnterHopper(const __grid_constant__ Kernel kernel) {
  HopperBlock block;
  RunKernel(block, kernel);
}

class HopperRunner : public GpuRunner {
 public:
  explicit HopperRunner(const KernelStream& stream) : GpuRunner(stream) {}

  template <class Kernel>
  void operator()(const Grid& grid, const Kernel& kernel) const {
    Start<EnterHopper<Kernel>>(grid, kernel);
  }

  // False where the driver refuses it (hopper/operands.cuh).
  bool MakeMap(const MapShape& shape, TensorMap* map) const {
    static const Encode encode = FindEncode();
    if (encode == nullptr) {
      KeepLaunchError("the driver has no cuTensorMapEncodeTiled");
      return false;
    }
    const bool f8 = shape.dtype == DType::kF8E4M3;
    const cuuint64_t dims[] = {static_cast<cuuint64_t>(shape.width),
                               static_cast<cuuint64_t>(shape.rows)};
    const cuuint64_t pitch[] = {static_cast<cuuint64_t>(shape.pitch)};
    const cuuint32_t box[] = {static_cast<cuuint32_t>(f8 ? kLineBytes : kLineBytes / 2),
                              static_cast<cuuint32_t>(shape.box_rows)};
    const cuuint32_t every[] = {1, 1};
    static_assert(sizeof(CUtensorMap) == sizeof(TensorMap));
    const CUresult result =
        encode(reinterpret_cast<CUtensorMap*>(map),
               f8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
               const_cast<void*>(shape.data), dims, pitch, box, every,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return true;
    KeepLaunchError("the driver refused a map of a tensor (cuTensorMapEncodeTiled)");
    return false;
  }

 private:
  using Encode = decltype(&cuTensorMapEncodeTiled);

  // By the runtime: nothing links the driver's library, which a machine without a card lacks.
  static Encode FindEncode() {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) return nullptr;
    return reinterpret_cast<Encode>(entry);
  }
};

}  // namespace choir::cuda
