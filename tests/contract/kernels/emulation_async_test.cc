// The emulation of Hopper's asynchronous units: layouts written down here a second time, by
// element, and what it must see as wrong.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "common/tensor/small_floats.h"
#include "tests/support/gpu_emulation/emulated_block.h"

namespace choir {
namespace {

using cuda::MapShape;
using cuda::TensorMap;
using emulation::BlockScheduler;
using emulation::EmulatedBlock;
using emulation::Order;

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

// [rows, width] of bf16, row r's column c being 100 r + c.
std::vector<bf16> Counted(int rows, int width) {
  std::vector<bf16> out;
  for (int i = 0; i < rows * width; ++i) {
    out.push_back(ToBF16(static_cast<float>(i / width * 100 + i % width)));
  }
  return out;
}

TensorMap MapOf(const std::vector<bf16>& matrix, int rows, int width, int box_rows) {
  const MapShape shape = cuda::RowsMap(matrix.data(), DType::kBF16, rows, width, box_rows);
  TensorMap map;
  std::memcpy(&map, &shape, sizeof shape);
  return map;
}

struct Shared {
  std::byte* tile;
  uint64_t* barrier;
  explicit Shared(EmulatedBlock& block)
      : tile(block.shared()), barrier(reinterpret_cast<uint64_t*>(block.shared() + 8192)) {
    if (block.thread() == 0) block.InitBarrier(barrier, 1);
    block.Sync();
  }
};
constexpr int64_t kSharedBytes = 8192 + 64;

TEST(GpuEmulationAsync, ATileLiesSwizzledAndIsZeroOutsideOfItsMatrix) {
  const std::vector<bf16> matrix = Counted(12, 72);
  const TensorMap map = MapOf(matrix, 12, 72, 16);
  for (const Order order : kOrders) {
    BlockScheduler(order).Run(
        {.threads = 32, .shared_bytes = kSharedBytes}, [&](EmulatedBlock& block) {
          const Shared shared(block);
          if (block.thread() == 0) {
            block.ArriveExpecting(shared.barrier, 2048);
            block.LoadTile(map, {16, 4}, shared.tile, shared.barrier);
          }
          block.AwaitPhase(shared.barrier, 0);
          for (int i = 0; i < 16 * 64; ++i) {
            const int row = i / 64, column = i % 64;
            const int unit = column / 8 ^ row % 8;
            bf16 got = 0;
            std::memcpy(&got, shared.tile + row * 128 + unit * 16 + column % 8 * 2, 2);
            const bool inside = row + 4 < 12 && column + 16 < 72;
            const int want = inside ? (row + 4) * 100 + column + 16 : 0;
            EXPECT_EQ(got, ToBF16(static_cast<float>(want))) << i;
          }
        });
  }
}

TEST(GpuEmulationAsync, WhatIsCopiedIsNaNUntilItIsAwaited) {
  const std::vector<bf16> matrix = Counted(8, 64);
  const TensorMap map = MapOf(matrix, 8, 64, 8);
  BlockScheduler(Order::kForward)
      .Run({.threads = 32, .shared_bytes = kSharedBytes}, [&](EmulatedBlock& block) {
        const Shared shared(block);
        std::memset(shared.tile, 0, 128);
        block.SyncWarp();
        if (block.thread() == 0) {
          block.ArriveExpecting(shared.barrier, 1024);
          block.LoadTile(map, {0, 0}, shared.tile, shared.barrier);
        }
        block.SyncWarp();
        EXPECT_TRUE(std::isnan(ToF32(*reinterpret_cast<bf16*>(shared.tile + 2))));
        block.AwaitPhase(shared.barrier, 0);
        EXPECT_EQ(ToF32(*reinterpret_cast<bf16*>(shared.tile + 2)), 1.0f);
      });
}

// 64 lines by 16 rows, one step of 16 columns of K: the second of a line.
TEST(GpuEmulationAsync, WgmmaMultipliesByTheLayoutsOfThePtxIsa) {
  const auto a_of = [](int line, int k) { return static_cast<float>((line * 3 + k * 5) % 7 - 3); };
  const auto b_of = [](int row, int k) { return static_cast<float>((row * 5 + k) % 5 - 2); };
  const auto put = [](std::byte* tile, int line, int column, float value) {
    const bf16 bits = ToBF16(value);
    std::memcpy(tile + line * 128 + (column / 8 ^ line % 8) * 16 + column % 8 * 2, &bits, 2);
  };
  BlockScheduler(Order::kShuffled)
      .Run({.threads = 128, .shared_bytes = 8192 + 2048}, [&](EmulatedBlock& block) {
        std::byte* const a = block.shared();
        std::byte* const b = a + 8192;
        for (int i = block.thread(); i < 64 * 16; i += 128) {
          put(a, i / 16, 16 + i % 16, a_of(i / 16, i % 16));
          if (i < 16 * 16) put(b, i / 16, 16 + i % 16, b_of(i / 16, i % 16));
        }
        block.Sync();
        float d[8] = {1, 1, 1, 1, 1, 1, 1, 1};
        block.WgmmaFence();
        block.Wgmma<false>(d, cuda::OperandAt(block.SharedAddress(a)) + cuda::kOperandStep,
                           cuda::OperandAt(block.SharedAddress(b)) + cuda::kOperandStep, true);
        block.WgmmaCommit();
        EXPECT_EQ(d[0], 1.0f);  // not before somebody waits
        block.WgmmaWait<0>();
        const int warp = block.thread() / 32, g = block.lane() / 4, t = block.lane() % 4;
        for (int i = 0; i < 8; ++i) {
          const int line = warp * 16 + g + (i % 4 >= 2 ? 8 : 0);
          const int row = i / 4 * 8 + t * 2 + i % 2;
          float want = 1;
          for (int k = 0; k < 16; ++k) want += a_of(line, k) * b_of(row, k);
          EXPECT_EQ(d[i], want) << line << ", " << row;
        }
      });
}

// 64 lines by 256 columns of b's lines, which lie in four panels: the second 16 of 32 lines of K; a
// from shared memory, then the same from registers.
TEST(GpuEmulationAsync, WgmmaTakesAnOperandWithKAcrossItsLines) {
  constexpr int kPanel = 32 * 128;
  const auto a_of = [](int line, int k) { return static_cast<float>((line * 3 + k * 5) % 7 - 3); };
  const auto b_of = [](int k, int n) { return static_cast<float>((n * 5 + k * n) % 5 - 2); };
  const auto put = [](std::byte* tile, int line, int column, float value) {
    const bf16 bits = ToBF16(value);
    std::memcpy(tile + line * 128 + (column / 8 ^ line % 8) * 16 + column % 8 * 2, &bits, 2);
  };
  BlockScheduler(Order::kShuffled)
      .Run({.threads = 128, .shared_bytes = 8192 + 4 * kPanel}, [&](EmulatedBlock& block) {
        std::byte* const a = block.shared();
        std::byte* const b = a + 8192;
        for (int i = block.thread(); i < 64 * 16; i += 128)
          put(a, i / 16, i % 16, a_of(i / 16, i % 16));
        for (int i = block.thread(); i < 16 * 256; i += 128) {
          const int k = i / 256, n = i % 256;
          put(b + n / 64 * kPanel, 16 + k, n % 64, b_of(k, n));
        }
        block.Sync();
        const int g = block.thread() / 32 * 16 + block.lane() / 4, t = block.lane() % 4;
        const auto pair = [&](int line, int k) {
          return block.RoundPair(a_of(line, k), a_of(line, k + 1));
        };
        const uint32_t fragment[4] = {pair(g, 2 * t), pair(g + 8, 2 * t), pair(g, 2 * t + 8),
                                      pair(g + 8, 2 * t + 8)};
        const uint64_t across = cuda::AcrossAt(block.SharedAddress(b), kPanel) + cuda::kAcrossStep;
        float d[128] = {};
        block.WgmmaFence();
        block.WgmmaAcross(d, cuda::OperandAt(block.SharedAddress(a)), across, false);
        block.WgmmaAcross(d, fragment, across, true);
        block.WgmmaCommit();
        block.WgmmaWait<0>();
        for (int i = 0; i < 128; ++i) {
          const int line = g + (i % 4 >= 2 ? 8 : 0);
          const int n = i / 4 * 8 + t * 2 + i % 2;
          float want = 0;
          for (int k = 0; k < 16; ++k) want += 2 * a_of(line, k) * b_of(k, n);
          EXPECT_EQ(d[i], want) << line << ", " << n;
        }
      });
}

// Copies of 16 bytes by threads, some of which are zeros.
TEST(GpuEmulationAsync, AnArrivalStandsForTheCopiesOfItsThread) {
  const std::vector<bf16> from(32 * 8, ToBF16(3.0f));
  for (const Order order : kOrders) {
    BlockScheduler(order).Run({.threads = 32, .shared_bytes = 1024}, [&](EmulatedBlock& block) {
      auto* const to = reinterpret_cast<bf16*>(block.shared());
      auto* const barrier = reinterpret_cast<uint64_t*>(block.shared() + 512);
      if (block.thread() == 0) block.InitBarrier(barrier, 32);
      block.Sync();
      const int i = block.thread();
      block.CopyAsync(to + 8 * i, from.data() + 8 * i, i % 2 == 0);
      EXPECT_TRUE(std::isnan(ToF32(to[8 * i])));
      block.ArriveAfterCopies(barrier);
      block.AwaitPhase(barrier, 0);
      for (int j = 0; j < 32; ++j) EXPECT_EQ(ToF32(to[8 * j + 7]), j % 2 == 0 ? 3.0f : 0.0f);
    });
  }
}

void RunOne(const std::function<void(EmulatedBlock&, const Shared&)>& body) {
  BlockScheduler(Order::kForward)
      .Run({.threads = 128, .shared_bytes = kSharedBytes},
           [&](EmulatedBlock& block) { body(block, Shared(block)); });
}

TEST(GpuEmulationAsyncDeathTest, BytesThatNeverComeAreAnError) {
  EXPECT_DEATH(RunOne([](EmulatedBlock& block, const Shared& shared) {
                 if (block.thread() == 0) block.ArriveExpecting(shared.barrier, 1024);
                 block.AwaitPhase(shared.barrier, 0);
               }),
               "kDone");
}

TEST(GpuEmulationAsyncDeathTest, MoreArrivalsThanAPhaseHasAreAnError) {
  EXPECT_DEATH(RunOne([](EmulatedBlock& block, const Shared& shared) {
                 if (block.thread() == 0) block.ArriveExpecting(shared.barrier, 1024);
                 block.Arrive(shared.barrier);
               }),
               "pending");
}

TEST(GpuEmulationAsyncDeathTest, AProductWithoutItsFenceIsAnError) {
  EXPECT_DEATH(RunOne([](EmulatedBlock& block, const Shared& shared) {
                 float d[8] = {};
                 const uint64_t operand = cuda::OperandAt(block.SharedAddress(shared.tile));
                 block.Wgmma<true>(d, operand, operand, false);
               }),
               "fenced");
}

TEST(GpuEmulationAsyncDeathTest, AProductThatNobodyWaitsForIsAnError) {
  EXPECT_DEATH(RunOne([](EmulatedBlock& block, const Shared& shared) {
                 float d[8] = {};
                 const uint64_t operand = cuda::OperandAt(block.SharedAddress(shared.tile));
                 block.WgmmaFence();
                 block.Wgmma<true>(d, operand, operand, false);
                 block.WgmmaCommit();
               }),
               "groups");
}

TEST(GpuEmulationAsyncDeathTest, ATileThatIsNotAlignedIsAnError) {
  const std::vector<bf16> matrix = Counted(8, 64);
  const TensorMap map = MapOf(matrix, 8, 64, 8);
  EXPECT_DEATH(RunOne([&](EmulatedBlock& block, const Shared& shared) {
                 if (block.thread() > 0) return;
                 block.ArriveExpecting(shared.barrier, 1024);
                 block.LoadTile(map, {0, 0}, shared.tile + 128, shared.barrier);
               }),
               "kSwizzleRepeat");
}

}  // namespace
}  // namespace choir
