// Runs a GPU kernel's blocks on the CPU: each thread of a block is a fiber, barriers and warp
// operations hand over to the next one. Proves index arithmetic and barriers, not speed; one block
// after the other, on the calling thread.
//
// Found and reported as a failed CHECK: a barrier that not all threads reach, a warp operation that
// not all 32 lanes reach, threads waiting for each other in vain. A missing barrier shows when the
// order in which threads run is changed: Order::kBackward and kShuffled must give the same bits.
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
#include <vector>

#include "common/base/check.h"
#include "kernels/cuda/arch.cuh"

namespace choir::emulation {

enum class Order : uint8_t { kForward, kBackward, kShuffled };

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
  void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

 private:
  uint64_t Exchange(uint64_t bits, int from_lane);

  BlockScheduler* scheduler_;
  int thread_;
};

class BlockScheduler {
 public:
  using Body = std::function<void(EmulatedBlock&)>;

  explicit BlockScheduler(Order order) : order_(order) {}

  // Runs every block of the grid.
  void Run(const cuda::Grid& grid, const Body& body);

 private:
  friend class EmulatedBlock;
  enum class State : uint8_t { kReady, kAtWarp, kAtBlock, kDone };
  struct Thread {
    boost::context::fiber fiber;
    State state = State::kReady;
  };

  void RunBlock(const Body& body);
  void Start(const Body& body, int thread);
  bool ReleaseWaiting();
  void Wait(int thread, State state);
  std::vector<int> ThreadOrder();

  const Order order_;
  std::mt19937 random_{1};
  cuda::Grid grid_;
  int64_t x_ = 0, y_ = 0;
  std::vector<std::byte> shared_;
  std::vector<uint64_t> lanes_;  // what each thread offers to its warp
  struct Fragments {
    uint32_t a[4], b[2];
  };
  std::vector<Fragments> fragments_;  // the same, for Mma
  std::vector<Thread> threads_;
  boost::context::fiber main_;
  boost::context::pooled_fixedsize_stack stacks_{256 * 1024};
};

}  // namespace choir::emulation
