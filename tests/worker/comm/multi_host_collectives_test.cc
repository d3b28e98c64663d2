// Ranks as real processes that behave as if on several hosts, and their deaths. What every
// Collectives does is in tests/contract/collectives_contract_test.cc.
#include "worker/comm/multi_host_collectives.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <thread>

#include "tests/support/fork_ranks.h"
#include "worker/comm/exchange_setup.h"

namespace choir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// How the forked ranks tell each other their endpoints, as the leader does it otherwise: a datagram
// socket a rank, into which every rank writes.
class Noticeboard {
 public:
  explicit Noticeboard(int ranks) : ends_(static_cast<size_t>(ranks)) {
    for (auto& end : ends_) CHOIR_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, end.data()) == 0);
  }
  std::vector<ExchangeEndpoint> Swap(int rank, const ExchangeEndpoint& mine) const {
    const std::string text = fmt::format("{:4}{:32}", rank, mine.segment) + mine.mesh;
    for (const auto& end : ends_) CHOIR_CHECK(write(end[0], text.data(), text.size()) > 0);
    std::vector<ExchangeEndpoint> all(ends_.size());
    for (size_t i = 0; i < all.size(); ++i) {
      char buffer[8192];
      const ssize_t bytes = read(ends_[static_cast<size_t>(rank)][1], buffer, sizeof buffer);
      CHOIR_CHECK(bytes >= 36);
      std::string segment(buffer + 4, 32);
      segment.erase(segment.find_last_not_of(' ') + 1);
      all[static_cast<size_t>(std::stoi(std::string(buffer, 4)))] = {
          segment, std::string(buffer + 36, static_cast<size_t>(bytes) - 36)};
    }
    return all;
  }

 private:
  std::vector<std::array<int, 2>> ends_;
};

struct Member {
  std::unique_ptr<ExchangeSetup> setup;
  std::unique_ptr<Collectives> collectives;
};

Member Join(const Noticeboard& board, const std::vector<std::string>& hosts, int rank,
            const std::vector<int64_t>& pids, Duration timeout = seconds(20)) {
  signal(SIGPIPE, SIG_IGN);
  auto setup = ExchangeSetup::Open(
      {.rank = rank,
       .generation = 5,
       .hosts = hosts,
       .pids = pids,
       .mesh_address = []() -> StatusOr<std::string> { return std::string("127.0.0.1"); },
       .collectives = {.timeout = timeout, .ring_bytes = 8192}});
  CHOIR_CHECK(setup.ok());
  auto joined = (*setup)->Connect(board.Swap(rank, (*setup)->endpoint()));
  CHOIR_CHECK(joined.ok());
  return {std::move(*setup), std::move(*joined)};
}

Status Swap(Collectives& c, size_t bytes) {
  const auto n = static_cast<size_t>(c.size());
  const std::vector<size_t> sizes(n, bytes);
  const std::vector<std::byte> out(n * bytes, std::byte(c.rank()));
  std::vector<std::byte> in(n * bytes);
  CHOIR_RETURN_IF_ERROR(c.AllToAllV(out, sizes, in, sizes));
  for (size_t i = 0; i < in.size(); ++i) CHOIR_CHECK(in[i] == std::byte(i / bytes));
  return absl::OkStatus();
}

const std::vector<std::vector<std::string>> kLayouts = {
    {"a", "b"}, {"a", "b", "c"}, {"a", "a", "b"}, {"a", "b", "a", "b"}, {"a", "a", "b", "b"}};

// What the last rank's end does to another one; 0: as it should be.
int LoseTheLastOf(Collectives& collectives) {
  const MonoTime start = Clock::Real().Now();
  const Status lost = Swap(collectives, 100000);
  if (lost.code() != absl::StatusCode::kUnavailable) return 2;
  if (Clock::Real().Now() - start > seconds(10)) return 3;  // far below the timeout
  const std::string last = fmt::format("rank {}", collectives.size() - 1);
  if (MessageOf(lost).find(last) == std::string::npos) return 4;
  if (collectives.WaitForAnnounce(1, std::chrono::hours(1))) return 5;
  return collectives.Barrier() == lost ? 0 : 6;
}

TEST(MultiHostCollectives, AKilledProcessIsFoundByAllOthersWhateverTheyWaitFor) {
  for (const auto& hosts : kLayouts) {
    const auto n = static_cast<int>(hosts.size());
    const Noticeboard board(n), others(n - 1);
    const ForkedRanks ranks(n, [&](int rank, const std::vector<int64_t>& pids) {
      Member member = Join(board, hosts, rank, pids);
      if (!Swap(*member.collectives, 3).ok()) return 1;
      board.Swap(rank, {});  // all have finished that
      if (rank == n - 1) kill(getpid(), SIGKILL);
      const int found = LoseTheLastOf(*member.collectives);
      others.Swap(rank, {});  // or one that is done early is what others find lost
      return found;
    });
    for (int r = 0; r < n - 1; ++r)
      EXPECT_EQ(ranks.Wait(r), 0) << fmt::format("{}", fmt::join(hosts, ""));
    EXPECT_EQ(ranks.Wait(n - 1), -SIGKILL);
  }
}

TEST(MultiHostCollectives, AKilledProcessIsFoundByThoseThatOnlyLook) {
  const std::vector<std::string> hosts = {"a", "b", "b"};
  const Noticeboard board(3);
  const ForkedRanks ranks(3, [&](int rank, const std::vector<int64_t>& pids) {
    Member member = Join(board, hosts, rank, pids);
    if (!Swap(*member.collectives, 3).ok()) return 1;
    board.Swap(rank, {});  // all have finished that
    if (rank == 2) kill(getpid(), SIGKILL);
    const MonoTime deadline = Clock::Real().Now() + seconds(10);
    while (member.collectives->LookAfterPeers().ok() && Clock::Real().Now() < deadline) {
      std::this_thread::yield();
    }
    return member.collectives->status().code() == absl::StatusCode::kUnavailable ? 0 : 2;
  });
  for (int r = 0; r < 2; ++r) EXPECT_EQ(ranks.Wait(r), 0) << r;
  EXPECT_EQ(ranks.Wait(2), -SIGKILL);
}

TEST(MultiHostCollectives, AProcessThatDiesInTheMiddleOfALargeMessageIsFound) {
  for (int round = 0; round < 5; ++round) {
    const std::vector<std::string> hosts = {"a", "b"};
    const Noticeboard board(2);
    ForkedRanks ranks(2, [&](int rank, const std::vector<int64_t>& pids) {
      Member member = Join(board, hosts, rank, pids);
      Status status;
      while (status.ok()) {  // 8 MB a message: it is cut in one
        status = Swap(*member.collectives, 8 << 20);
        if (rank == 1 && status.ok()) raise(SIGUSR1);
      }
      return status.code() == absl::StatusCode::kUnavailable ? 0 : 1;
    });
    EXPECT_EQ(ranks.Wait(1), -SIGUSR1);
    EXPECT_EQ(ranks.Wait(0), 0);
  }
}

TEST(MultiHostCollectives, AStoppedProcessIsATimeoutThatNamesIt) {
  const std::vector<std::string> hosts = {"a", "b", "c"};
  const Noticeboard board(3);
  ForkedRanks ranks(3, [&](int rank, const std::vector<int64_t>& pids) {
    Member member = Join(board, hosts, rank, pids, rank == 2 ? seconds(60) : milliseconds(300));
    if (rank == 2) raise(SIGSTOP);
    const Status late = member.collectives->Barrier();
    if (late.code() != absl::StatusCode::kDeadlineExceeded) return 1;
    return MessageOf(late).find("for rank 2") != std::string::npos ? 0 : 2;
  });
  EXPECT_EQ(ranks.Wait(0), 0);
  EXPECT_EQ(ranks.Wait(1), 0);
  ranks.Kill(2, SIGCONT);
  EXPECT_EQ(ranks.Wait(2), 0) << "it must hear why the others left when it wakes up";
}

TEST(MultiHostCollectives, ASetUpWithoutItsPeersEndsWhenGivenUp) {
  signal(SIGPIPE, SIG_IGN);
  auto setup = ExchangeSetup::Open(
      {.rank = 0,
       .generation = 5,
       .hosts = {"a", "b"},
       .pids = {1, 2},
       .mesh_address = []() -> StatusOr<std::string> { return std::string("127.0.0.1"); },
       .connect_timeout = std::chrono::hours(1)});
  ASSERT_TRUE(setup.ok()) << setup.status();
  // An address that this rank waits for: 255.255.255.255 is above its own.
  std::vector<ExchangeEndpoint> all(2, (*setup)->endpoint());
  for (size_t i = 0; i + 4 <= all[1].mesh.size(); ++i) {
    if (all[1].mesh.compare(i, 4, std::string("\x7f\x00\x00\x01", 4)) == 0)
      all[1].mesh.replace(i, 4, "\xff\xff\xff\xff");
  }
  // A secret of 16 bytes, then an entry for each rank, of which rank 1 has none for itself.
  const size_t entry = (all[1].mesh.size() - 16) / 2;
  all[1].mesh.replace(16, entry, all[1].mesh.substr(16 + entry));
  std::jthread gives_up([&] { (*setup)->GiveUp(); });
  EXPECT_FALSE((*setup)->Connect(all).ok());
}

TEST(MultiHostCollectives, WhoDoesNotKnowTheSecretOfARankIsNotTakenForIt) {
  signal(SIGPIPE, SIG_IGN);
  std::vector<std::unique_ptr<ExchangeSetup>> setups;
  std::vector<ExchangeEndpoint> all;
  for (const int rank : {0, 1}) {
    auto setup = ExchangeSetup::Open(
        {.rank = rank,
         .generation = 5,
         .hosts = {"a", "b"},
         .pids = {1, 2},
         .mesh_address = []() -> StatusOr<std::string> { return std::string("127.0.0.1"); }});
    ASSERT_TRUE(setup.ok()) << setup.status();
    all.push_back((*setup)->endpoint());
    setups.push_back(std::move(*setup));
  }
  std::vector<ExchangeEndpoint> others = all;
  others[1].mesh[0] ^= 1;  // what rank 0 was told of rank 1
  std::jthread one([&] { (void)setups[1]->Connect(all); });
  const Status refused = setups[0]->Connect(others).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied) << refused;
  EXPECT_NE(MessageOf(refused).find("as rank 1 is not that rank"), std::string::npos) << refused;
}

TEST(MultiHostCollectives, ARankWithoutAnAddressForTheOthersIsRefused) {
  signal(SIGPIPE, SIG_IGN);
  auto setup = ExchangeSetup::Open(
      {.rank = 0,
       .generation = 5,
       .hosts = {"a", "b"},
       .pids = {1, 2},
       .mesh_address = []() -> StatusOr<std::string> { return std::string("192.0.2.1"); }});
  EXPECT_EQ(setup.status().code(), absl::StatusCode::kNotFound) << setup.status();
}

}  // namespace
}  // namespace choir
