// Runs a GPU kernel's blocks on the CPU: each thread of a block is a fiber, barriers and warp
// operations hand over to the next one. Proves index arithmetic and barriers, not speed; one block
// after the other, on the calling thread.
//
// Found and reported as a failed CHECK: a barrier that not all threads reach, a warp operation that
// not all 32 lanes reach, threads waiting for each other in vain; of a kernel, a thread that does
// not wait for earlier kernels, or does so twice, and a copy ahead of that. A missing barrier shows
// when the order in which threads run is changed: Order::kBackward and kShuffled must give the same
// bits.
#pragma once

#include <bit>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "common/base/check.h"
#include "kernels/cuda/arch.cuh"
#include "kernels/cuda/hopper/operands.cuh"
#include "tests/support/gpu_emulation/emulated_async.h"

namespace choir::emulation {

class BlockScheduler;

// What one thread of a kernel sees (kernels/cuda/arch.cuh, Grid).
class EmulatedBlock {
 public:
  EmulatedBlock(BlockScheduler* scheduler, int thread) : scheduler_(scheduler), thread_(thread) {}
  int thread() const { return thread_; }
  int threads() const;
  int lane() const { return thread_ % cuda::kWarp; }
  int warp() const { return thread_ / cuda::kWarp; }
  int64_t x() const;
  int64_t y() const;
  std::byte* shared() const;

  void AwaitEarlier();
  void Sync();
  template <class T>
  T ShuffleXor(T value, int mask) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    const uint64_t other = Exchange(bits, lane() ^ mask);
    std::memcpy(&value, &other, sizeof value);
    return value;
  }
  uint32_t Ballot(bool flag);
  // Threads of a block are of one thread of the host: nothing comes between.
  uint32_t AtomicAdd(uint32_t* to, uint32_t value) {
    CheckShared(to, sizeof *to);
    const uint32_t before = *to;
    *to += value;
    return before;
  }
  void AtomicAdd(uint64_t* to, uint64_t value) {
    CheckShared(to, sizeof *to);
    *to += value;
  }
  void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
  void LoadMatrices(uint32_t (&to)[4], const void* row) { Load(to, row, false); }
  void LoadTransposed(uint32_t (&to)[4], const void* row) { Load(to, row, true); }
  uint32_t RoundPair(float low, float high) const;
  // Done as late as they may be; what they are to write is NaN until then. In a block that has
  // barriers it is ArriveAfterCopies that ends them, and nothing else.
  void CopyAsync(void* to, const void* from, bool there);
  void CommitCopies();
  template <int kLeft>
  void WaitCopies() {
    FinishCopies(kLeft);
  }

  // What Hopper has besides (kernels/cuda/hopper/operands.cuh).
  int warpgroup() const { return thread_ / cuda::kWarpgroup; }
  void SyncWarp() { Exchange(0, lane()); }
  uint32_t SharedAddress(const void* p) const;
  void InitBarrier(uint64_t* barrier, uint32_t arrivals);
  void FenceBarriers() const {}
  void FenceAsync() const {}  // a missing one shows on a card only
  void Arrive(uint64_t* barrier);
  void ArriveExpecting(uint64_t* barrier, uint32_t bytes);
  void AwaitPhase(uint64_t* barrier, uint32_t parity);
  void PrefetchMap(const cuda::TensorMap&) const {}
  void LoadTile(const cuda::TensorMap& map, const int32_t (&at)[2], std::byte* to,
                uint64_t* barrier);
  void CopyAsync4(float* to, const float* from);
  void ArriveAfterCopies(uint64_t* barrier);
  template <bool kF8, int kSums>
  void Wgmma(float (&d)[kSums], uint64_t a, uint64_t b, bool add) {
    Multiply({.f8 = kF8, .rows = 2 * kSums, .sums = d, .a = a, .b = b, .add = add});
  }
  template <bool kF8, int kSums>
  void Wgmma(float (&d)[kSums], const uint32_t (&a)[4], uint64_t b, bool add) {
    static_assert(!kF8);
    Multiply({.rows = 2 * kSums, .sums = d, .b = b, .a_pair = a, .add = add});
  }
  void WgmmaAcross(float (&d)[128], uint64_t a, uint64_t b, bool add) {
    Multiply({.rows = 256, .sums = d, .a = a, .b = b, .add = add, .across = true});
  }
  void WgmmaAcross(float (&d)[128], const uint32_t (&a)[4], uint64_t b, bool add) {
    Multiply({.rows = 256, .sums = d, .b = b, .a_pair = a, .add = add, .across = true});
  }
  void WgmmaFence();
  void WgmmaCommit();
  template <int kLeft>
  void WgmmaWait() {
    WaitForProducts(kLeft);
  }
  template <int kSums>
  void Pin(float (&)[kSums]) const {}
  uint32_t SelectBytes(uint32_t bytes, uint32_t selector) const;
  uint32_t ScaleUpPair(uint32_t pair) const;
  float QuickSigmoid(float x) const;
  float QuickExp2(float x) const;
  template <int kRegisters>
  void GiveRegisters() const {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  }
  template <int kRegisters>
  void TakeRegisters() const {
    GiveRegisters<kRegisters>();
  }

 private:
  void Load(uint32_t (&to)[4], const void* row, bool transposed);
  void FinishCopies(size_t groups_left);
  void CheckShared(const void* at, size_t bytes = 16) const;  // aligned to its size
  void CheckAwaited() const;
  uint64_t Exchange(uint64_t bits, int from_lane);
  void Multiply(const Product& product);
  void WaitForProducts(int left);
  AsyncUnits& async() const;

  friend class BlockScheduler;

  BlockScheduler* scheduler_;
  int thread_;
};

class BlockScheduler {
 public:
  using Body = std::function<void(EmulatedBlock&)>;

  explicit BlockScheduler(Order order) : order_(order), async_(order) {}

  // Runs every block of the grid.
  void Run(const cuda::Grid& grid, const Body& body);
  // The same of a kernel, which may be started early (RunKernel).
  template <class Kernel>
  void RunKernel(const cuda::Grid& grid, const Kernel& kernel) {
    is_kernel_ = true;
    Run(grid, [&kernel](EmulatedBlock& block) {
      cuda::RunKernel(block, kernel);
      block.CheckAwaited();
    });
    is_kernel_ = false;
  }

 private:
  friend class EmulatedBlock;
  enum class State : uint8_t { kReady, kAtWarp, kAtWarpgroup, kAtPhase, kAtBlock, kDone };
  struct Copy {
    void* to;
    const void* from;  // null: zeros
  };
  struct Thread {
    boost::context::fiber fiber;
    State state = State::kReady;
    bool awaited = false;                       // earlier kernels
    std::vector<std::vector<Copy>> copies{{}};  // by group; the last one is open
    const uint64_t* barrier = nullptr;          // kAtPhase
    uint32_t parity = 0;
  };

  void RunBlock(const Body& body);
  void Start(const Body& body, int thread);
  bool KeepsStep() const { return order_ == Order::kForward || async_.HasBarriers(); }
  void Resume(std::span<const int> order);
  void ResumeWarps(std::span<const int> by_warp);
  bool ReleaseWaiting();
  bool ReleaseWarp(size_t warp);
  bool ReleaseWarps();
  bool ReleaseWarpgroups();
  bool ReleasePhases();
  bool IsLate(int thread);
  void Wait(int thread, State state);
  std::vector<int> ThreadOrder();

  const Order order_;
  bool is_kernel_ = false;
  std::mt19937 random_{1};
  cuda::Grid grid_;
  int64_t x_ = 0, y_ = 0;
  int late_ = 0;
  std::vector<std::byte> memory_;
  std::span<std::byte> shared_;
  AsyncUnits async_;
  std::vector<uint64_t> lanes_;  // what each thread offers to its warp
  struct Fragments {
    uint32_t a[4], b[2];
  };
  std::vector<Fragments> fragments_;  // the same, for Mma
  std::vector<Thread> threads_;
  std::vector<size_t> warp_order_;  // unless all keep step
  boost::context::fiber main_;
  boost::context::pooled_fixedsize_stack stacks_{256 * 1024};
};

}  // namespace choir::emulation
