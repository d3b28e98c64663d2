// What every Collectives must do, run on each implementation with ranks as threads. Processes, and
// their deaths, are in tests/worker/comm/shm_collectives_test.cc.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>

#include "common/base/check.h"
#include "tests/support/gpu_emulation/nccl_ranks.h"
#include "tests/support/ranks_on_hosts.h"
#include "tests/support/run_ranks.h"
#include "worker/comm/local_collectives.h"
#include "worker/comm/shm_collectives.h"

namespace choir {
namespace {

using Ranks = std::vector<std::unique_ptr<Collectives>>;

struct Kind {
  const char* name;
  Ranks (*make)(int num_ranks, uint64_t generation, const CollectivesOptions& options);
};

class CollectivesContract : public ::testing::TestWithParam<std::tuple<Kind, int>> {
 protected:
  int num_ranks() const { return std::get<1>(GetParam()); }
  Ranks Make(const CollectivesOptions& options = {.ring_bytes = 8192}) const {
    return std::get<0>(GetParam()).make(num_ranks(), 7, options);
  }
};

// Deterministic contents of the message of a round.
std::byte ByteOf(int round, int from, int to, size_t at) {
  return static_cast<std::byte>((round * 131 + from * 17 + to * 29 + static_cast<int>(at) * 7) &
                                0xff);
}

// The same on all ranks: bytes[from][to] of a round.
std::vector<std::vector<size_t>> SizesOf(int round, int n, size_t max) {
  std::mt19937_64 random(static_cast<uint64_t>(round));
  std::vector<std::vector<size_t>> sizes(static_cast<size_t>(n),
                                         std::vector<size_t>(static_cast<size_t>(n)));
  for (auto& row : sizes) {
    for (size_t& s : row) s = random() % 4 == 0 ? 0 : random() % (max + 1);
  }
  return sizes;
}

void ExchangeRound(Collectives& c, int round, size_t max) {
  const auto n = static_cast<size_t>(c.size());
  const auto me = static_cast<size_t>(c.rank());
  const auto sizes = SizesOf(round, c.size(), max);
  std::vector<size_t> out_bytes(n), in_bytes(n);
  std::vector<std::byte> out, in;
  for (size_t r = 0; r < n; ++r) {
    out_bytes[r] = sizes[me][r];
    in_bytes[r] = sizes[r][me];
    for (size_t i = 0; i < out_bytes[r]; ++i) {
      out.push_back(ByteOf(round, c.rank(), static_cast<int>(r), i));
    }
    in.resize(in.size() + in_bytes[r]);
  }
  ASSERT_TRUE(c.AllToAllV(out, out_bytes, in, in_bytes).ok()) << c.status();
  size_t at = 0;
  for (size_t r = 0; r < n; ++r) {
    for (size_t i = 0; i < in_bytes[r]; ++i, ++at) {
      ASSERT_EQ(in[at], ByteOf(round, static_cast<int>(r), c.rank(), i))
          << "from " << r << " at " << i;
    }
  }
}

TEST_P(CollectivesContract, KnowsItsRanks) {
  Ranks ranks = Make();
  ASSERT_EQ(ranks.size(), static_cast<size_t>(num_ranks()));
  for (int r = 0; r < num_ranks(); ++r) {
    const Collectives& c = *ranks[static_cast<size_t>(r)];
    EXPECT_EQ(c.rank(), r);
    EXPECT_EQ(c.size(), num_ranks());
    EXPECT_EQ(c.generation(), 7u);
    EXPECT_TRUE(c.status().ok());
  }
}

TEST_P(CollectivesContract, BarrierHoldsEveryRankUntilTheLastCame) {
  Ranks ranks = Make();
  std::atomic<int> came{0};
  RunRanks(ranks, [&](Collectives& c) {
    for (int round = 1; round <= 200; ++round) {
      came.fetch_add(1);
      ASSERT_TRUE(c.Barrier().ok());
      ASSERT_GE(came.load(), round * c.size());
    }
  });
}

TEST_P(CollectivesContract, AllGatherGivesEveryRankTheSame) {
  Ranks ranks = Make();
  RunRanks(ranks, [&](Collectives& c) {
    for (int round = 0; round < 100; ++round) {
      const size_t bytes = round % 10 == 0 ? 4096 : static_cast<size_t>(round % 23);
      std::vector<std::byte> in(bytes), out(bytes * static_cast<size_t>(c.size()));
      for (size_t i = 0; i < bytes; ++i) in[i] = ByteOf(round, c.rank(), 0, i);
      ASSERT_TRUE(c.AllGather(in, out).ok());
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(out[i], ByteOf(round, static_cast<int>(i / bytes), 0, i % bytes));
      }
    }
  });
}

TEST_P(CollectivesContract, AllToAllBringsEveryByteToItsRank) {
  Ranks ranks = Make();
  RunRanks(ranks, [&](Collectives& c) {
    for (int round = 0; round < 60; ++round) ExchangeRound(c, round, 300);
  });
}

TEST_P(CollectivesContract, MessagesLargerThanAnyBufferTravelInBothDirectionsAtOnce) {
  Ranks ranks = Make();
  RunRanks(ranks, [&](Collectives& c) {
    for (int round = 0; round < 6; ++round) ExchangeRound(c, 1000 + round, 100000);
  });
}

TEST_P(CollectivesContract, MixedCallsInOneOrderWork) {
  Ranks ranks = Make();
  RunRanks(ranks, [&](Collectives& c) {
    for (int round = 0; round < 50; ++round) {
      ASSERT_TRUE(c.Barrier().ok());
      ExchangeRound(c, round, 9000);
      std::byte in[3] = {std::byte(c.rank()), std::byte(1), std::byte(2)};
      std::vector<std::byte> out(3 * static_cast<size_t>(c.size()));
      ASSERT_TRUE(c.AllGather(in, out).ok());
    }
  });
}

TEST_P(CollectivesContract, AbortEndsEveryCallOnEveryRankWithTheSameError) {
  Ranks ranks = Make();
  const int last = num_ranks() - 1;
  RunRanks(ranks, [&](Collectives& c) {
    if (c.rank() == last) c.Abort(Unavailable("power cut"));
    std::byte byte{};
    std::vector<std::byte> out(static_cast<size_t>(c.size()));
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(c.Barrier(), Unavailable("power cut"));
      EXPECT_EQ(c.AllGather({&byte, 1}, out), Unavailable("power cut"));
    }
    EXPECT_EQ(c.status(), Unavailable("power cut"));
  });
}

TEST_P(CollectivesContract, TheFirstReasonStays) {
  Ranks ranks = Make();
  ranks[0]->Abort(Unavailable("first"));
  ranks[0]->Abort(Internal("second"));
  // A call, since a word from another host takes its time.
  EXPECT_EQ(ranks.back()->Barrier(), Unavailable("first"));
  EXPECT_EQ(ranks.back()->status(), Unavailable("first"));
}

TEST_P(CollectivesContract, AMissingRankIsATimeoutThatNamesIt) {
  if (num_ranks() == 1) return;
  Ranks ranks = Make({.timeout = std::chrono::milliseconds(200), .ring_bytes = 8192});
  RunRanks(ranks, [&](Collectives& c) {
    if (c.rank() == 0) return;
    const Status late = c.Barrier();
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
    EXPECT_NE(MessageOf(late).find("for rank 0"), std::string::npos) << late;
    EXPECT_EQ(c.Barrier(), c.status());
  });
  EXPECT_EQ(ranks[0]->Barrier().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_P(CollectivesContract, AnAbortDuringAnExchangeFreesEveryBuffer) {
  for (int round = 0; round < 20; ++round) {
    Ranks ranks = Make();
    RunRanks(ranks, [&](Collectives& c) {
      const auto n = static_cast<size_t>(c.size());
      for (int i = 0; i < 4; ++i) {
        // Freed as soon as the call returns: the address sanitizer sees a late reader.
        std::vector<std::byte> out(n * 20000), in(n * 20000);
        const std::vector<size_t> bytes(n, 20000);
        if (!c.AllToAllV(out, bytes, in, bytes).ok()) break;
        if (i == 1 && c.rank() == round % c.size()) c.Abort(Unavailable("now"));
      }
      EXPECT_EQ(c.status(), Unavailable("now"));
    });
  }
}

TEST_P(CollectivesContract, AnnounceReachesAWaitingPeerAndALaterOne) {
  if (num_ranks() == 1) return;
  Ranks ranks = Make();
  RunRanks(ranks, [&](Collectives& c) {
    // Rank 0 announces each step; the others follow it. No announcement may be lost.
    for (uint64_t step = 1; step <= 300; ++step) {
      if (c.rank() == 0) {
        c.Announce(step);
      } else {
        ASSERT_TRUE(c.WaitForAnnounce(step, std::chrono::seconds(20)));
      }
      if (step % 50 == 0) {
        ASSERT_TRUE(c.Barrier().ok());
      }
    }
    if (c.rank() != 0) {
      EXPECT_TRUE(c.WaitForAnnounce(1, {}));
      EXPECT_FALSE(c.WaitForAnnounce(301, std::chrono::milliseconds(1)));
    }
  });
}

TEST_P(CollectivesContract, OwnAnnouncementsDoNotCount) {
  Ranks ranks = Make();
  ranks[0]->Announce(3);
  EXPECT_FALSE(ranks[0]->WaitForAnnounce(3, std::chrono::milliseconds(1)));
}

TEST_P(CollectivesContract, WakeEndsTheNextWaitOnceAndARunningOne) {
  Ranks ranks = Make();
  Collectives& c = *ranks[0];
  c.Wake();
  EXPECT_FALSE(c.WaitForAnnounce(1, std::chrono::hours(10)));
  for (int i = 0; i < 100; ++i) {
    std::jthread waker([&] { c.Wake(); });
    EXPECT_FALSE(c.WaitForAnnounce(1, Duration::max()));
  }
}

TEST_P(CollectivesContract, DeathEndsAWaitForAnnouncements) {
  Ranks ranks = Make();
  std::jthread killer([&] { ranks.back()->Abort(Unavailable("gone")); });
  EXPECT_FALSE(ranks[0]->WaitForAnnounce(1, std::chrono::hours(10)));
  EXPECT_FALSE(ranks[0]->WaitForAnnounce(1, std::chrono::hours(10)));
}

TEST_P(CollectivesContract, ARankThatLeavesEndsTheGeneration) {
  if (num_ranks() == 1) return;
  Ranks ranks = Make();
  ranks.pop_back();
  EXPECT_EQ(ranks[0]->Barrier().code(), absl::StatusCode::kUnavailable);
}

Ranks MakeSingle(int num_ranks, uint64_t generation, const CollectivesOptions& /*options*/) {
  CHOIR_CHECK(num_ranks == 1);
  Ranks ranks;
  ranks.push_back(MakeSingleCollectives(generation));
  return ranks;
}

// Every rank maps the segment on its own, as processes do.
Ranks MakeShm(int num_ranks, uint64_t generation, const CollectivesOptions& options) {
  auto segment = ShmSegment::Create(num_ranks, generation, options);
  CHOIR_CHECK(segment.ok());
  const std::vector<int64_t> pids(static_cast<size_t>(num_ranks), getpid());
  Ranks ranks;
  for (int r = 0; r < num_ranks; ++r) {
    auto joined = JoinShmCollectives({(*segment)->name(), r, generation, pids, options});
    CHOIR_CHECK(joined.ok());
    ranks.push_back(std::move(*joined));
  }
  return ranks;
}

Ranks MakeGloo(int num_ranks, uint64_t generation, const CollectivesOptions& options) {
  return MakeRanksOnHosts(HostsNextToEachOther(num_ranks, 1), generation, options);
}
Ranks MakeMixed(int num_ranks, uint64_t generation, const CollectivesOptions& options) {
  return MakeRanksOnHosts(HostsNextToEachOther(num_ranks, 2), generation, options);
}
Ranks MakeInterleaved(int num_ranks, uint64_t generation, const CollectivesOptions& options) {
  return MakeRanksOnHosts(HostsInTurn(num_ranks, 2), generation, options);
}

Ranks MakeNccl(int num_ranks, uint64_t generation, const CollectivesOptions& options) {
  Ranks ranks = MakeLocalCollectives(num_ranks, generation, options);
  for (const Status& connected : ConnectNcclRanks(&ranks)) CHOIR_CHECK(connected.ok());
  return ranks;
}

constexpr Kind kNccl{"nccl", MakeNccl};
constexpr Kind kGloo{"gloo", MakeGloo};
constexpr Kind kMixed{"mixed", MakeMixed};
constexpr Kind kInterleaved{"interleaved", MakeInterleaved};
constexpr Kind kShm{"shm", MakeShm};
constexpr Kind kLocal{"local", MakeLocalCollectives};
constexpr Kind kSingle{"single", MakeSingle};

std::string NameOf(const ::testing::TestParamInfo<std::tuple<Kind, int>>& info) {
  return fmt::format("{}{}", std::get<0>(info.param).name, std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Local, CollectivesContract,
                         ::testing::Combine(::testing::Values(kLocal),
                                            ::testing::Values(1, 2, 3, 4, 5)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Shm, CollectivesContract,
                         ::testing::Combine(::testing::Values(kShm),
                                            ::testing::Values(1, 2, 3, 4, 5)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Gloo, CollectivesContract,
                         ::testing::Combine(::testing::Values(kGloo),
                                            ::testing::Values(1, 2, 3, 4)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Mixed, CollectivesContract,
                         ::testing::Combine(::testing::Values(kMixed, kInterleaved),
                                            ::testing::Values(3, 4, 5)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(NcclFake, CollectivesContract,
                         ::testing::Combine(::testing::Values(kNccl), ::testing::Values(1, 3)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Single, CollectivesContract,
                         ::testing::Combine(::testing::Values(kSingle), ::testing::Values(1)),
                         NameOf);

}  // namespace
}  // namespace choir
