// The play of gpu_check's exchanges: over a fake NCCL between threads, over shared memory between
// processes; wrong bytes, a lost rank and one that hangs are told.
#include "tools/gpu/exchange_play.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "common/base/check.h"
#include "tests/support/gpu_emulation/nccl_ranks.h"
#include "tests/support/run_ranks.h"
#include "tools/gpu/nccl_check.h"
#include "tools/gpu/rank_processes.h"

namespace choir::gpu {
namespace {

using testing::HasSubstr;

constexpr PlayOptions kSmallPlay{
    .rounds = 6, .ragged_bytes = 300, .large_bytes = 9000, .large_rounds = 2};

std::unique_ptr<RowMover> MoverOf(Collectives& c, size_t bytes_max) {
  return DeviceMover(&c, emulation::EmulatedDevices(), c.rank(), bytes_max).value();
}

TEST(GpuExchangePlay, PassesOverAFakeNccl) {
  for (const int n : {2, 4}) {
    NcclRanks ranks = MakeNcclRanks(n);
    RunRanks(ranks, [&](Collectives& c) {
      const auto mover = MoverOf(c, kSmallPlay.bytes_max());
      PlayTimes times;
      const Status status = PlayExchanges(c, *mover, kSmallPlay, &times);
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_GT(times.small_us, 0);
    });
  }
  EXPECT_EQ(FakeNcclHandles(), 0);
}

TEST(GpuExchangePlay, PassesThroughTheHosts) {
  auto ranks = MakeLocalCollectives(3, 1, {});
  RunRanks(ranks, [&](Collectives& c) {
    const auto mover = HostMover(&c, kSmallPlay.bytes_max());
    PlayTimes times;
    const Status status = PlayExchanges(c, *mover, kSmallPlay, &times);
    EXPECT_TRUE(status.ok()) << status;
  });
}

// Moves, and then flips a bit of the last byte that came in.
class Flipping final : public RowMover {
 public:
  explicit Flipping(RowMover* inner) : inner_(*inner) {}
  Status Move(std::span<const std::byte> out, std::span<const size_t> out_bytes,
              std::span<std::byte> in, std::span<const size_t> in_bytes) override {
    const Status status = inner_.Move(out, out_bytes, in, in_bytes);
    in.back() ^= std::byte{1};
    return status;
  }
  Status MoveAgain(size_t bytes) override { return inner_.MoveAgain(bytes); }

 private:
  RowMover& inner_;
};

TEST(GpuExchangePlay, FindsAByteThatIsWrong) {
  NcclRanks ranks = MakeNcclRanks(2);
  RunRanks(ranks, [&](Collectives& c) {
    const auto mover = MoverOf(c, 100);
    Flipping flipping(mover.get());
    EXPECT_EQ(PlayEven(c, flipping, 3, 100),
              Internal("round 3: byte 99 from rank 1 at rank {} is wrong", c.rank()));
  });
}

TEST(GpuExchangePlay, EndsWithTheReasonWhenARankIsLost) {
  NcclRanks ranks = MakeNcclRanks(3);
  RunRanks(ranks, [&](Collectives& c) {
    const auto mover = MoverOf(c, kSmallPlay.bytes_max());
    if (c.rank() == 2) return c.Abort(Unavailable("power cut"));
    PlayTimes times;
    EXPECT_EQ(PlayExchanges(c, *mover, kSmallPlay, &times), Unavailable("power cut"));
  });
}

// Over the emulated module: its fake NCCL, or where it has none shared memory.
TEST(GpuNcclCheck, ProcessesExchangeLoseARankAndGoOn) {
  NcclCheckOptions options{.module = CHOIR_EMULATED_MODULE, .play = kSmallPlay};
  for (const int n : {2, 4}) {
    const auto told = CheckNccl(n, options);
    EXPECT_TRUE(told["failures"].empty()) << told.dump();
    ASSERT_EQ(told["lines"].size(), 1u) << told.dump();
    EXPECT_THAT(told["lines"][0].get<std::string>(),
                HasSubstr(fmt::format("{} processes over ", n)));
    EXPECT_THAT(told["lines"][0].get<std::string>(), HasSubstr(fmt::format("rank {}", n - 1)));
    EXPECT_LT(told["lost_s"], 10.0);
  }
}

TEST(GpuNcclCheck, WithoutAModuleThereIsNothingToCheckAndWhy) {
  const auto told = CheckNccl(2, {.module = "/nowhere/choir_cuda.so", .play = kSmallPlay});
  EXPECT_THAT(told["nothing"].get<std::string>(), HasSubstr("/nowhere/choir_cuda.so"));
  EXPECT_TRUE(told["failures"].empty());
}

TEST(GpuRankProcesses, AreKilledAtTheLimitAndSaidToHaveHung) {
  const auto ends = RunRankProcesses(
      3, std::chrono::milliseconds(200), [](int rank, const std::vector<int64_t>& pids, int out) {
        if (rank == 1) pause();
        if (rank == 2) kill(getpid(), SIGKILL);
        const std::string text = fmt::format("{} of {}", pids[0] == getpid() ? 0 : 1, pids.size());
        return write(out, text.data(), text.size()) > 0 ? 4 : 5;
      });
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[0].code, 4);
  EXPECT_EQ(ends[0].told, "0 of 3");
  EXPECT_FALSE(ends[0].hung);
  EXPECT_TRUE(ends[1].hung);
  EXPECT_EQ(ends[1].code, -SIGKILL);
  EXPECT_FALSE(ends[2].hung);
  EXPECT_EQ(ends[2].code, -SIGKILL);
}

}  // namespace
}  // namespace choir::gpu
