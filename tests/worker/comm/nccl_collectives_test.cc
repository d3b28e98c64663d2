// What goes wrong with NCCL ends the generation on every rank, with one reason, and leaves nothing
// behind. What has to work is in tests/contract/collectives_contract_test.cc.
#include "worker/comm/nccl_collectives.h"

#include <gmock/gmock.h>

#include "tests/support/nccl_ranks.h"
#include "tests/support/run_ranks.h"

namespace choir {
namespace {

using testing::HasSubstr;

class NcclCollectivesTest : public testing::Test {
 protected:
  ~NcclCollectivesTest() override { SetFakeNcclFaults({}); }

  static std::vector<std::unique_ptr<Collectives>> Make(int n, Duration nccl_timeout) {
    std::vector<std::unique_ptr<Collectives>> ranks;
    for (auto& rank : TryMakeNcclRanks(n, 1, {}, nccl_timeout)) {
      EXPECT_TRUE(rank.ok()) << rank.status();
      ranks.push_back(std::move(rank).value());
    }
    return ranks;
  }
  // Every rank sends 100 bytes to every rank.
  static Status Exchange(Collectives& c) {
    const auto n = static_cast<size_t>(c.size());
    const std::vector<std::byte> out(n * 100);
    std::vector<std::byte> in(n * 100);
    const std::vector<size_t> bytes(n, 100);
    return c.AllToAllV(out, bytes, in, bytes);
  }
  static constexpr Duration kLong = std::chrono::seconds(60);
};

TEST_F(NcclCollectivesTest, WithoutTheLibraryEveryRankSaysSo) {
  SetFakeNcclFaults({.open_error = "libnccl.so.2 cannot be opened"});
  for (const auto& rank : TryMakeNcclRanks(3, 1, {})) {
    EXPECT_THAT(MessageOf(rank.status()), HasSubstr("libnccl.so.2 cannot be opened"));
  }
  EXPECT_EQ(FakeNcclHandles(), 0);
}

TEST_F(NcclCollectivesTest, ARankThatDoesNotConnectIsATimeoutForAll) {
  SetFakeNcclFaults({.unconnected_rank = 2});
  for (const auto& rank : TryMakeNcclRanks(3, 1, {}, std::chrono::milliseconds(50))) {
    EXPECT_EQ(rank.status().code(), absl::StatusCode::kDeadlineExceeded) << rank.status();
    EXPECT_THAT(MessageOf(rank.status()), HasSubstr("connect"));
  }
  EXPECT_EQ(FakeNcclHandles(), 0);
}

TEST_F(NcclCollectivesTest, AnErrorOfOneRankEndsTheExchangeOfAllWithItsReason) {
  SetFakeNcclFaults({.failing_rank = 1});
  auto ranks = Make(3, kLong);
  RunRanks(ranks, [](Collectives& c) {
    const Status failed = Exchange(c);
    EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(MessageOf(failed), HasSubstr("at rank 1 of 3: unhandled cuda error"));
    EXPECT_EQ(Exchange(c), failed) << "a dead communicator stays dead";
    EXPECT_EQ(c.Barrier(), failed);
  });
  ranks.clear();
  EXPECT_EQ(FakeNcclHandles(), 0);
}

TEST_F(NcclCollectivesTest, ARankThatDoesNotExchangeIsATimeoutForTheOthers) {
  auto ranks = Make(3, std::chrono::milliseconds(100));
  RunRanks(ranks, [](Collectives& c) {
    if (c.rank() == 0) return;  // as one that hangs
    const Status late = Exchange(c);
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
    EXPECT_THAT(MessageOf(late), HasSubstr("all-to-all"));
  });
  EXPECT_EQ(Exchange(*ranks[0]).code(), absl::StatusCode::kDeadlineExceeded);
  ranks.clear();
  EXPECT_EQ(FakeNcclHandles(), 0);
}

TEST_F(NcclCollectivesTest, ALostRankFreesThoseThatWaitForItsRows) {
  auto ranks = Make(2, kLong);
  std::jthread waits(
      [&] { EXPECT_EQ(Exchange(*ranks[1]).code(), absl::StatusCode::kUnavailable); });
  ranks[0].reset();  // leaves
}

TEST_F(NcclCollectivesTest, TheNextGenerationWorksAfterAFailedOne) {
  SetFakeNcclFaults({.failing_rank = 0});
  auto ranks = Make(2, kLong);
  RunRanks(ranks, [](Collectives& c) { EXPECT_FALSE(Exchange(c).ok()); });
  SetFakeNcclFaults({});
  ranks = Make(2, kLong);
  RunRanks(ranks, [](Collectives& c) { EXPECT_TRUE(Exchange(c).ok()) << c.status(); });
}

}  // namespace
}  // namespace choir
