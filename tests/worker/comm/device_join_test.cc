// Which way rows take, chosen alike by all ranks, on emulated cards over a fake NCCL.
#include "worker/comm/device_join.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <string>

#include "tests/support/gpu_emulation/nccl_ranks.h"
#include "tests/support/run_ranks.h"

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;

template <size_t size>
void Put(const std::string& text, std::array<char, size>* to) {
  to->fill(0);
  text.copy(to->data(), size - 1);
}

DeviceOffer OfferOf(const char* card, DeviceWish wish = DeviceWish::kAuto,
                    const char* why_not = "") {
  DeviceOffer offer{.wish = wish, .version = 22809};
  Put(card, &offer.card);
  Put("one", &offer.machine);
  Put(why_not, &offer.why_not);
  return offer;
}

DeviceChoice Choose(std::vector<DeviceOffer> offers) { return ChooseDevicePath(offers); }

TEST(ChooseDevicePath, TakesNcclWhereAllCanAndEachHasItsCard) {
  const DeviceChoice choice = Choose({OfferOf("0"), OfferOf("1")});
  EXPECT_TRUE(choice.nccl && choice.one_machine && !choice.shared_card && !choice.by_name);
  EXPECT_TRUE(choice.refusal.ok());
}

TEST(ChooseDevicePath, TheSameCardOfTwoMachinesIsTwoCards) {
  std::vector<DeviceOffer> offers = {OfferOf("0"), OfferOf("0")};
  Put("two", &offers[1].machine);
  const DeviceChoice choice = ChooseDevicePath(offers);
  EXPECT_TRUE(choice.nccl && !choice.one_machine);
}

TEST(ChooseDevicePath, TakesTheHostsAndNamesTheRankThatCannot) {
  EXPECT_EQ(Choose({OfferOf("0"), OfferOf("1", DeviceWish::kAuto, "no library")}).why_hosts,
            "rank 1: no library");
  std::vector<DeviceOffer> offers = {OfferOf("0"), OfferOf("1")};
  offers[1].version = 23003;
  EXPECT_EQ(ChooseDevicePath(offers).why_hosts,
            "rank 1 has NCCL 2.30.3, rank 0 has 2.28.9: install the same");
  offers[1].version = offers[0].version;
  offers[1].step_tokens = 12;
  EXPECT_EQ(ChooseDevicePath(offers).why_hosts,
            "rank 1 has --step-tokens 12, rank 0 has 0: give the same");
  offers[1].step_tokens = 0;
  offers[1].slot_rows = 8;
  EXPECT_EQ(ChooseDevicePath(offers).why_hosts,
            "rank 1 has --slot-rows 8, rank 0 has 0: give the same");
  offers[1].slot_rows = 0;
  offers[1].slot_output_bytes = 4096;
  EXPECT_EQ(
      ChooseDevicePath(offers).why_hosts,
      "rank 1 has --slot-output-bytes (0 with --cpu-experts) 4096, rank 0 has 0: give the same");
  offers[1].slot_output_bytes = 0;
  offers[1].micro_batch_rows = 512;
  EXPECT_EQ(ChooseDevicePath(offers).why_hosts,
            "rank 1 has --micro-batch-rows 512, rank 0 has 0: give the same");
}

TEST(ChooseDevicePath, RanksThatShareACardTakeTheHostsUnlessNcclWasNamed) {
  const DeviceChoice shared = Choose({OfferOf("0"), OfferOf("1"), OfferOf("0")});
  EXPECT_FALSE(shared.nccl);
  EXPECT_THAT(shared.why_hosts, HasSubstr("ranks 0 and 2 share the card 0"));
  const DeviceChoice named = Choose({OfferOf("0", DeviceWish::kNccl), OfferOf("0")});
  EXPECT_TRUE(named.nccl && named.shared_card && named.by_name);
}

TEST(ChooseDevicePath, RefusesWhatWasNamedAndCannotBe) {
  const DeviceChoice choice =
      Choose({OfferOf("0", DeviceWish::kHost, "it has no wish"), OfferOf("1", DeviceWish::kNccl)});
  EXPECT_EQ(choice.refusal.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MessageOf(choice.refusal),
            "--device-exchange nccl of rank 1 cannot be had: rank 0: it has no wish");
}

class DeviceJoinTest : public testing::Test {
 protected:
  ~DeviceJoinTest() override { SetFakeNcclFaults({}); }

  struct Joined {
    Status status;
    std::string path;
    std::string collectives;
    RowPath rows = RowPath::kHost;
  };
  // `wishes` by rank; rank r is on card r.
  static std::vector<Joined> Join(const std::vector<DeviceWish>& wishes) {
    auto ranks = MakeLocalCollectives(static_cast<int>(wishes.size()), 1, {});
    std::vector<Joined> joined(wishes.size());
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < wishes.size(); ++r) {
      threads.emplace_back([&, r] {
        DeviceJoin join({.wish = wishes[r],
                         .device = &emulation::EmulatedDevices(),
                         .nccl = &FakeNccl(),
                         .card = static_cast<int32_t>(r),
                         .machine = "here",
                         .timeout = std::chrono::milliseconds(200)});
        joined[r] = {.status = join.Join(&ranks[r]), .rows = join.rows()};
        joined[r].path = join.path();
        joined[r].collectives = ranks[r]->name();
      });
    }
    threads.clear();
    return joined;
  }
};

TEST_F(DeviceJoinTest, AutoTakesNcclAndSaysWhichOne) {
  for (const Joined& rank : Join({DeviceWish::kAuto, DeviceWish::kAuto})) {
    EXPECT_TRUE(rank.status.ok()) << rank.status;
    EXPECT_EQ(rank.path, "NCCL 2.28.9");
    EXPECT_EQ(rank.collectives, "nccl+local");
    EXPECT_EQ(rank.rows, RowPath::kEither);
  }
}

TEST_F(DeviceJoinTest, AutoTakesTheHostsWhereTheLibraryIsMissing) {
  SetFakeNcclFaults({.open_error = "libnccl.so.2 cannot be opened"});
  for (const Joined& rank : Join({DeviceWish::kAuto, DeviceWish::kAuto})) {
    EXPECT_TRUE(rank.status.ok()) << rank.status;
    EXPECT_EQ(rank.path, "the hosts' memory: rank 0: libnccl.so.2 cannot be opened");
    EXPECT_EQ(rank.collectives, "local");
    EXPECT_EQ(rank.rows, RowPath::kHost);
  }
}

TEST_F(DeviceJoinTest, AutoTakesTheHostsWhereNcclDoesNotConnect) {
  SetFakeNcclFaults({.unconnected_rank = 1});
  for (const Joined& rank : Join({DeviceWish::kAuto, DeviceWish::kAuto})) {
    EXPECT_TRUE(rank.status.ok()) << rank.status;
    EXPECT_THAT(rank.path, AllOf(HasSubstr("the hosts' memory"), HasSubstr("longer than 100 ms")));
    EXPECT_EQ(rank.collectives, "local");
  }
}

TEST_F(DeviceJoinTest, ByNameEveryRankIsRefusedWithOneReason) {
  SetFakeNcclFaults({.other_version = 23003});
  for (const Joined& rank : Join({DeviceWish::kNccl, DeviceWish::kAuto})) {
    EXPECT_THAT(MessageOf(rank.status), HasSubstr("--device-exchange nccl of rank 0"));
    EXPECT_THAT(MessageOf(rank.status), HasSubstr("install the same"));
  }
  SetFakeNcclFaults({.unconnected_rank = 1});
  for (const Joined& rank : Join({DeviceWish::kNccl, DeviceWish::kNccl})) {
    EXPECT_THAT(MessageOf(rank.status),
                HasSubstr("--device-exchange nccl: NCCL connect at rank 0 of 2 took longer"));
  }
  EXPECT_EQ(FakeNcclHandles(), 0);
}

TEST_F(DeviceJoinTest, HostOfOneRankIsHostForAll) {
  for (const Joined& rank : Join({DeviceWish::kAuto, DeviceWish::kHost})) {
    EXPECT_TRUE(rank.status.ok()) << rank.status;
    EXPECT_EQ(rank.path, "the hosts' memory: rank 1: it has --device-exchange host");
  }
}

}  // namespace
}  // namespace choir
