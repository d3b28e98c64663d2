// The emulation itself: it must run what is right, and see what is wrong.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "common/tensor/dtype.h"
#include "tests/support/gpu_emulation/emulated_block.h"

namespace choir {
namespace {

using emulation::BlockScheduler;
using emulation::EmulatedBlock;
using emulation::Order;

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

int* SharedInts(EmulatedBlock& block) { return reinterpret_cast<int*>(block.shared()); }

TEST(GpuEmulation, EveryThreadOfEveryBlockRunsOnce) {
  for (const Order order : kOrders) {
    std::vector<int> seen(3 * 2 * 64);
    BlockScheduler(order).Run({.x = 3, .y = 2, .threads = 64}, [&](EmulatedBlock& block) {
      ++seen[static_cast<size_t>((block.y() * 3 + block.x()) * 64 + block.thread())];
    });
    EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
  }
}

TEST(GpuEmulation, BarriersShowWhatOtherThreadsWrote) {
  for (const Order order : kOrders) {
    std::vector<int> got(96);
    BlockScheduler(order).Run({.threads = 96, .shared_bytes = 96 * 4}, [&](EmulatedBlock& block) {
      SharedInts(block)[block.thread()] = block.thread();
      block.Sync();
      got[static_cast<size_t>(block.thread())] = SharedInts(block)[95 - block.thread()];
    });
    for (int i = 0; i < 96; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], 95 - i);
  }
}

TEST(GpuEmulation, AMissingBarrierShowsInSomeOrder) {
  int wrong = 0;
  for (const Order order : kOrders) {
    std::vector<int> got(64);
    BlockScheduler(order).Run({.threads = 64, .shared_bytes = 64 * 4}, [&](EmulatedBlock& block) {
      SharedInts(block)[block.thread()] = block.thread();
      got[static_cast<size_t>(block.thread())] = SharedInts(block)[63 - block.thread()];
    });
    for (int i = 0; i < 64; ++i) wrong += got[static_cast<size_t>(i)] != 63 - i;
  }
  EXPECT_GT(wrong, 0);
}

// Lanes keep step by warp operations, warps do not.
TEST(GpuEmulation, AMissingBarrierShowsBetweenWarpsThatKeepStep) {
  int wrong = 0;
  for (const Order order : kOrders) {
    BlockScheduler(order).Run({.threads = 64, .shared_bytes = 64 * 4}, [&](EmulatedBlock& block) {
      block.Ballot(true);
      SharedInts(block)[block.thread()] = block.thread();
      block.Ballot(true);
      wrong += SharedInts(block)[63 - block.thread()] != 63 - block.thread();
    });
  }
  EXPECT_GT(wrong, 0);
}

// What is written right behind a barrier, or at the start.
TEST(GpuEmulation, AWarpGoesToItsBarrierBeforeOthersBegin) {
  for (const Order order : {Order::kBackward, Order::kShuffled}) {
    int wrong = 0;
    BlockScheduler(order).Run({.threads = 64, .shared_bytes = 64 * 4}, [&](EmulatedBlock& block) {
      for (int round = 1; round <= 2; ++round) {
        SharedInts(block)[block.thread()] = round;
        block.Ballot(true);
        wrong += SharedInts(block)[63 - block.thread()] != round;
        block.Sync();
      }
    });
    EXPECT_EQ(wrong, 2 * 32);
  }
}

TEST(GpuEmulation, LanesExchangeWithinTheirWarpOnly) {
  std::vector<int> got(64);
  std::vector<uint32_t> odd(64);
  BlockScheduler(Order::kShuffled).Run({.threads = 64}, [&](EmulatedBlock& block) {
    const auto i = static_cast<size_t>(block.thread());
    got[i] = block.ShuffleXor(block.thread(), 5);
    odd[i] = block.Ballot(block.warp() == 1 && block.lane() % 2 == 1);
  });
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(got[static_cast<size_t>(i)], i ^ 5);
    EXPECT_EQ(odd[static_cast<size_t>(i)], i < 32 ? 0u : 0xaaaaaaaau);
  }
}

// Fragments as PTX has them, written down here a second time, by element: of a, pair (row, k) lies
// in the thread and register that the table of m16n8k16 says.
TEST(GpuEmulation, AtomicAdditionsLoseNothing) {
  for (const Order order : kOrders) {
    uint64_t sum = 0;
    std::vector<uint32_t> seen(96);
    BlockScheduler(order).Run({.threads = 96, .shared_bytes = 16}, [&](EmulatedBlock& block) {
      auto* wide = reinterpret_cast<uint64_t*>(block.shared());
      auto* count = reinterpret_cast<uint32_t*>(wide + 1);
      if (block.thread() == 0) {
        *wide = 0;
        *count = 0;
      }
      block.Sync();
      block.AtomicAdd(wide, uint64_t{1} << 31);
      ++seen[block.AtomicAdd(count, 1u)];
      block.Sync();
      sum = *wide;
    });
    EXPECT_EQ(sum, uint64_t{96} << 31);
    EXPECT_EQ(seen, std::vector<uint32_t>(96, 1));
  }
}

TEST(GpuEmulation, MmaMultipliesByTheFragmentsOfThePtxIsa) {
  float a[16][16], b[16][8], got[16][8];
  for (int i = 0; i < 256; ++i) a[i / 16][i % 16] = static_cast<float>(i % 13 - 6);
  for (int i = 0; i < 128; ++i) b[i / 8][i % 8] = static_cast<float>(i % 7 - 3);
  const auto pair = [](float low, float high) {
    return static_cast<uint32_t>(ToBF16(low)) | static_cast<uint32_t>(ToBF16(high)) << 16;
  };
  BlockScheduler(Order::kShuffled).Run({.threads = 32}, [&](EmulatedBlock& block) {
    const int g = block.lane() / 4, t = block.lane() % 4;
    const uint32_t a_parts[4] = {
        pair(a[g][2 * t], a[g][2 * t + 1]), pair(a[g + 8][2 * t], a[g + 8][2 * t + 1]),
        pair(a[g][2 * t + 8], a[g][2 * t + 9]), pair(a[g + 8][2 * t + 8], a[g + 8][2 * t + 9])};
    const uint32_t b_parts[2] = {pair(b[2 * t][g], b[2 * t + 1][g]),
                                 pair(b[2 * t + 8][g], b[2 * t + 9][g])};
    float d[4] = {1, 1, 1, 1};
    block.Mma(d, a_parts, b_parts);
    for (int i = 0; i < 4; ++i) got[g + i / 2 * 8][2 * t + i % 2] = d[i];
  });
  for (int i = 0; i < 128; ++i) {
    float want = 1;
    for (int k = 0; k < 16; ++k) want += a[i / 8][k] * b[k][i % 8];
    EXPECT_EQ(got[i / 8][i % 8], want) << i;
  }
}

// Lane i names row i of 32, in four matrices; number 8 · row + column stands in each element.
TEST(GpuEmulation, MatricesAreLoadedByTheLayoutOfThePtxIsa) {
  uint32_t plain[32][4], transposed[32][4];
  BlockScheduler(Order::kShuffled)
      .Run({.threads = 32, .shared_bytes = 32 * 16}, [&](EmulatedBlock& block) {
        auto* shared = reinterpret_cast<uint16_t*>(block.shared());
        for (int i = 0; i < 8; ++i) {
          shared[block.lane() * 8 + i] = static_cast<uint16_t>(block.lane() * 8 + i);
        }
        block.Sync();
        block.LoadMatrices(plain[block.lane()], shared + block.lane() * 8);
        block.LoadTransposed(transposed[block.lane()], shared + block.lane() * 8);
      });
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t line = lane / 4, pair = lane % 4 * 2;
    for (uint32_t m = 0; m < 4; ++m) {
      EXPECT_EQ(plain[lane][m], (64 * m + 8 * line + pair) | (64 * m + 8 * line + pair + 1) << 16);
      EXPECT_EQ(transposed[lane][m], (64 * m + 8 * pair + line) | (64 * m + 8 * (pair + 1) + line)
                                                                      << 16);
    }
  }
}

TEST(GpuEmulation, CopiesArriveWhenTheirGroupIsWaitedForAndNotBefore) {
  alignas(16) int from[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  BlockScheduler(Order::kForward)
      .Run({.threads = 32, .shared_bytes = 48 * 32}, [&](EmulatedBlock& block) {
        int* to = SharedInts(block) + block.thread() * 12;
        block.CopyAsync(to, from, true);
        block.CommitCopies();
        block.CopyAsync(to + 4, from + 4, true);
        block.CopyAsync(to + 8, from, false);
        block.CommitCopies();
        EXPECT_EQ(to[0], -1);
        block.WaitCopies<1>();
        EXPECT_EQ(to[3], 4);
        EXPECT_EQ(to[4], -1);
        block.WaitCopies<0>();
        EXPECT_EQ(to[4], 5);
        EXPECT_EQ(to[8], 0);
      });
}

struct WaitsByItself {
  static constexpr bool kAwaitsEarlier = true;
  int waits = 1;
  bool copies_before = false, one_leaves = false;

  void operator()(EmulatedBlock& block) const {
    alignas(16) static constexpr int kFrom[4] = {};
    if (copies_before) block.CopyAsync(block.shared(), kFrom, true);
    if (one_leaves && block.thread() == 7) return;
    for (int i = 0; i < waits; ++i) block.AwaitEarlier();
  }
};

struct LeavesTheWaitToItsEntry {
  int* after;

  void operator()(EmulatedBlock& block) const {
    alignas(16) static constexpr int kFrom[4] = {};
    block.CopyAsync(block.shared(), kFrom, true);
    ++*after;
  }
};

template <class Kernel>
void RunEarly(const Kernel& kernel) {
  BlockScheduler(Order::kForward).RunKernel({.x = 2, .threads = 32, .shared_bytes = 16}, kernel);
}

TEST(GpuEmulation, KernelsWaitForEarlierOnesByTheirEntryOrByThemselves) {
  int after = 0;
  RunEarly(LeavesTheWaitToItsEntry{&after});
  EXPECT_EQ(after, 64);
  RunEarly(WaitsByItself{});
}

TEST(GpuEmulationDeathTest, AThreadThatDoesNotWaitOnceForEarlierKernelsIsAnError) {
  EXPECT_DEATH(RunEarly(WaitsByItself{.waits = 0}), "awaited");
  EXPECT_DEATH(RunEarly(WaitsByItself{.waits = 2}), "awaited");
  EXPECT_DEATH(RunEarly(WaitsByItself{.one_leaves = true}), "awaited");
}

TEST(GpuEmulationDeathTest, ACopyBeforeEarlierKernelsHaveEndedIsAnError) {
  EXPECT_DEATH(RunEarly(WaitsByItself{.copies_before = true}), "awaited");
}

TEST(GpuEmulationDeathTest, ABarrierThatNotAllReachIsAnError) {
  EXPECT_DEATH(BlockScheduler(Order::kForward)
                   .Run({.threads = 64},
                        [](EmulatedBlock& block) {
                          if (block.thread() != 40) block.Sync();
                        }),
               "kDone");
}

TEST(GpuEmulationDeathTest, AWarpOperationThatNotAllLanesReachIsAnError) {
  EXPECT_DEATH(BlockScheduler(Order::kForward)
                   .Run({.threads = 32},
                        [](EmulatedBlock& block) {
                          if (block.lane() < 16) block.Ballot(true);
                        }),
               "kDone");
}

TEST(GpuEmulationDeathTest, AnAtomicAdditionOutsideSharedMemoryIsAnError) {
  uint32_t elsewhere = 0;
  EXPECT_DEATH(BlockScheduler(Order::kForward)
                   .Run({.threads = 32, .shared_bytes = 16},
                        [&](EmulatedBlock& block) { block.AtomicAdd(&elsewhere, 1u); }),
               "byte");
}

TEST(GpuEmulationDeathTest, MoreSharedMemoryThanAnyCardHasIsAnError) {
  EXPECT_DEATH(BlockScheduler(Order::kForward)
                   .Run({.threads = 32, .shared_bytes = 228 * 1024}, [](EmulatedBlock&) {}),
               "kSharedMax");
}

}  // namespace
}  // namespace choir
