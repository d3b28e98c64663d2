// Shared memory between real processes, and their deaths. What every Collectives does is in
// tests/contract/collectives_contract_test.cc.
#include "worker/comm/shm_collectives.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "tests/support/fork_ranks.h"

namespace choir {
namespace {

constexpr uint64_t kGeneration = 11;

std::unique_ptr<ShmSegment> MakeSegment(int ranks, size_t ring_bytes = 8192) {
  auto segment = ShmSegment::Create(ranks, kGeneration, {.ring_bytes = ring_bytes});
  CHOIR_CHECK(segment.ok());
  return std::move(*segment);
}

std::unique_ptr<Collectives> Join(const ShmSegment& segment, int rank,
                                  const std::vector<int64_t>& pids,
                                  Duration timeout = std::chrono::seconds(20)) {
  auto joined = JoinShmCollectives({segment.name(), rank, kGeneration, pids, {.timeout = timeout}});
  CHOIR_CHECK(joined.ok());
  return std::move(*joined);
}

// All ranks swap `bytes` with each other; true when every byte is right.
bool Swap(Collectives& c, int round, size_t bytes) {
  const auto n = static_cast<size_t>(c.size());
  const std::vector<size_t> sizes(n, bytes);
  std::vector<std::byte> out(n * bytes, std::byte(round + c.rank())), in(n * bytes);
  if (!c.AllToAllV(out, sizes, in, sizes).ok()) return false;
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] != std::byte(round + static_cast<int>(i / bytes))) return false;
  }
  return true;
}

TEST(ShmCollectives, ProcessesExchangeMoreThanTheRingsHold) {
  for (const int n : {2, 3, 4}) {
    auto segment = MakeSegment(n);
    const ForkedRanks ranks(n, [&](int rank, const std::vector<int64_t>& pids) {
      auto c = Join(*segment, rank, pids);
      for (int round = 0; round < 50; ++round) {
        if (!Swap(*c, round, round % 7 == 0 ? 50000 : 100)) return 1;
      }
      return c->Barrier().ok() ? 0 : 2;
    });
    for (int r = 0; r < n; ++r) EXPECT_EQ(ranks.Wait(r), 0) << "rank " << r << " of " << n;
  }
}

TEST(ShmCollectives, AKilledProcessIsFoundAndNamedByAllOthers) {
  auto segment = MakeSegment(3);
  const ForkedRanks ranks(3, [&](int rank, const std::vector<int64_t>& pids) {
    auto c = Join(*segment, rank, pids);
    if (!Swap(*c, 1, 10)) return 1;
    if (rank == 2) {
      kill(getpid(), SIGKILL);
    }
    const MonoTime start = Clock::Real().Now();
    const Status lost = c->Barrier();
    if (lost.code() != absl::StatusCode::kUnavailable) return 2;
    if (MessageOf(lost).find(fmt::format("rank 2 (process {})", pids[2])) == std::string::npos)
      return 3;
    if (Clock::Real().Now() - start > std::chrono::seconds(10)) return 4;  // far below the timeout
    return c->Barrier() == lost && c->status() == lost ? 0 : 5;
  });
  EXPECT_EQ(ranks.Wait(0), 0);
  EXPECT_EQ(ranks.Wait(1), 0);
  EXPECT_EQ(ranks.Wait(2), -SIGKILL);
}

TEST(ShmCollectives, AKilledProcessEndsAnIdleWait) {
  auto segment = MakeSegment(2);
  const ForkedRanks ranks(2, [&](int rank, const std::vector<int64_t>& pids) {
    auto c = Join(*segment, rank, pids);
    if (!c->Barrier().ok()) return 1;
    if (rank == 1) kill(getpid(), SIGKILL);
    if (c->WaitForAnnounce(1, std::chrono::hours(1))) return 2;
    return c->status().code() == absl::StatusCode::kUnavailable ? 0 : 3;
  });
  EXPECT_EQ(ranks.Wait(0), 0);
  EXPECT_EQ(ranks.Wait(1), -SIGKILL);
}

// An owner that waits for something else, as for its GPU.
TEST(ShmCollectives, AKilledProcessIsFoundByOneThatOnlyLooks) {
  auto segment = MakeSegment(2);
  const ForkedRanks ranks(2, [&](int rank, const std::vector<int64_t>& pids) {
    auto c = Join(*segment, rank, pids);
    if (!c->Barrier().ok()) return 1;
    if (rank == 1) kill(getpid(), SIGKILL);
    const MonoTime deadline = Clock::Real().Now() + std::chrono::seconds(10);
    while (c->LookAfterPeers().ok() && Clock::Real().Now() < deadline) std::this_thread::yield();
    return c->status().code() == absl::StatusCode::kUnavailable ? 0 : 2;
  });
  EXPECT_EQ(ranks.Wait(0), 0);
  EXPECT_EQ(ranks.Wait(1), -SIGKILL);
}

TEST(ShmCollectives, AStoppedProcessIsATimeout) {
  auto segment = MakeSegment(2);
  ForkedRanks ranks(2, [&](int rank, const std::vector<int64_t>& pids) {
    auto c = Join(*segment, rank, pids, std::chrono::milliseconds(rank == 0 ? 50 : 20000));
    if (rank == 1) {
      raise(SIGSTOP);
      return c->Barrier().code() == absl::StatusCode::kDeadlineExceeded ? 0 : 1;
    }
    const Status late = c->Barrier();
    return late.code() == absl::StatusCode::kDeadlineExceeded ? 0 : 1;
  });
  EXPECT_EQ(ranks.Wait(0), 0);
  ranks.Kill(1, SIGCONT);
  EXPECT_EQ(ranks.Wait(1), 0) << "it must find the generation dead when it wakes up";
}

TEST(ShmCollectives, AnnouncementsWakeSleepingProcesses) {
  auto segment = MakeSegment(3);
  const ForkedRanks ranks(3, [&](int rank, const std::vector<int64_t>& pids) {
    auto c = Join(*segment, rank, pids);
    for (uint64_t step = 1; step <= 100; ++step) {
      if (step % 3 == static_cast<uint64_t>(rank)) {
        c->Announce(step);
      } else if (!c->WaitForAnnounce(step, std::chrono::seconds(20))) {
        return 1;
      }
      if (!c->Barrier().ok()) return 2;
    }
    return 0;
  });
  for (int r = 0; r < 3; ++r) EXPECT_EQ(ranks.Wait(r), 0);
}

TEST(ShmCollectives, ADeadPeerIsRefusedAtJoin) {
  auto segment = MakeSegment(2);
  const ForkedRanks gone(1, [](int, const std::vector<int64_t>&) { return 0; });
  EXPECT_EQ(gone.Wait(0), 0);
  const auto joined =
      JoinShmCollectives({segment->name(), 0, kGeneration, {getpid(), gone.pid(0)}, {}});
  EXPECT_EQ(joined.status().code(), absl::StatusCode::kUnavailable) << joined.status();
}

TEST(ShmCollectives, RefusesWhatIsNotItsSegment) {
  auto segment = MakeSegment(2);
  const std::vector<int64_t> pids(2, getpid());
  const auto code = [&](const ShmJoin& join) { return JoinShmCollectives(join).status().code(); };
  EXPECT_EQ(code({segment->name(), 0, kGeneration, pids, {}}), absl::StatusCode::kOk);
  EXPECT_EQ(code({segment->name(), 0, kGeneration + 1, pids, {}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({segment->name(), 2, kGeneration, pids, {}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({segment->name(), 0, kGeneration, {getpid()}, {}}),
            absl::StatusCode::kInvalidArgument);
  for (const char* name :
       {"", "/etc/passwd", "/proc/self/fd/1", "/proc/1/fd/", "/proc/1/fd/1/../2"}) {
    EXPECT_EQ(code({name, 0, kGeneration, pids, {}}), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(code({fmt::format("/proc/{}/fd/999", getpid()), 0, kGeneration, pids, {}}),
            absl::StatusCode::kUnavailable);
  const int fd = memfd_create("not sealed", 0);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(code({fmt::format("/proc/{}/fd/{}", getpid(), fd), 0, kGeneration, pids, {}}),
            absl::StatusCode::kInvalidArgument);
  close(fd);
}

TEST(ShmCollectives, ASegmentOutlivesItsNameForThoseWhoJoined) {
  auto segment = MakeSegment(2);
  const std::vector<int64_t> pids(2, getpid());
  auto c = Join(*segment, 0, pids);
  const std::string name = segment->name();
  segment.reset();
  EXPECT_FALSE(JoinShmCollectives({name, 1, kGeneration, pids, {}}).ok());
  c->Announce(1);
  EXPECT_TRUE(c->status().ok());
}

}  // namespace
}  // namespace choir
