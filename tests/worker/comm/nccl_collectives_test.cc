// Rows between emulated cards over a fake NCCL. What goes wrong ends the generation on every rank,
// with one reason, in bounded time, and leaves nothing behind.
#include "worker/comm/nccl_collectives.h"

#include <gmock/gmock.h>

#include <cstring>
#include <future>
#include <random>

#include "common/base/log.h"
#include "tests/support/gpu_emulation/emulated_stream.h"
#include "tests/support/gpu_emulation/nccl_ranks.h"
#include "tests/support/run_ranks.h"
#include "worker/comm/abort_limit.h"
#include "worker/device/table_device.h"

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A rank's card with room for what is sent and what is received, guarded as an exchange does it.
class Card {
 public:
  explicit Card(Collectives* collectives) : link_(*collectives->device()) {
    auto device = MakeTableDevice(emulation::EmulatedDevices(), collectives->rank());
    CHOIR_CHECK(device.ok());
    device_ = std::move(device).value();
    CHOIR_CHECK(device_->Reserve(4 * kBytes).ok());
    for (StagedBuffer* b : {&send_, &recv_}) {
      auto made = StagedBuffer::Make(device_.get(), kBytes);
      CHOIR_CHECK(made.ok());
      *b = std::move(made).value();
    }
    device_->Guard([this] { return link_.Look(); });
  }
  ~Card() {
    device_->Guard({});
    link_.Leave();
    (void)device_->Wait();  // a copy that was ahead of what failed still reads the host's buffers
  }

  // Uploads, sends and downloads without a wait between; then waits.
  Status Exchange(const std::vector<size_t>& send_bytes, const std::vector<size_t>& recv_bytes) {
    send_.Upload(0, kBytes);
    CHOIR_RETURN_IF_ERROR(link_.Begin({.what = "dispatch",
                                       .send = send_.device(),
                                       .send_bytes = send_bytes,
                                       .recv = recv_.device(),
                                       .recv_bytes = recv_bytes},
                                      device_->stream()));
    CHOIR_RETURN_IF_ERROR(link_.End(device_->stream()));
    recv_.Download(0, kBytes);
    return device_->Wait();
  }
  // Two exchanges of which neither has ended when the other begins; the first one's copies are
  // behind its own end only.
  Status ExchangeTwo(const std::vector<size_t>& send_bytes, const std::vector<size_t>& recv_bytes) {
    send_.Upload(0, kBytes);
    for (const size_t at : {size_t{0}, kBytes / 2}) {
      CHOIR_RETURN_IF_ERROR(link_.Begin({.what = "dispatch",
                                         .send = send_.device() + at,
                                         .send_bytes = send_bytes,
                                         .recv = recv_.device() + at,
                                         .recv_bytes = recv_bytes},
                                        device_->stream()));
    }
    for (const size_t at : {size_t{0}, kBytes / 2}) {
      CHOIR_RETURN_IF_ERROR(link_.End(device_->stream()));
      recv_.Download(at, kBytes / 2);
    }
    return device_->Wait();
  }
  static constexpr size_t half() { return kBytes / 2; }
  // Two slots at once, of three ranks.
  Status Gather(size_t first, size_t second) {
    const DeviceSlotRoom& room = link_.slots();
    device_->Copy(room.own, send_.host(), first + second);
    const DeviceSlot slots[] = {
        {.own = room.own, .bytes = first, .all = room.all},
        {.own = room.own + first, .bytes = second, .all = room.all + 3 * first}};
    CHOIR_RETURN_IF_ERROR(link_.BeginSlots("dispatch", slots, device_->stream()));
    CHOIR_RETURN_IF_ERROR(link_.End(device_->stream()));
    device_->Copy(recv_.host(), room.all, 3 * (first + second));
    return device_->Wait();
  }
  // Equal parts, of the other ranks and its own.
  Status Return(const Collectives& c, size_t bytes) {
    const DeviceSlotRoom& room = link_.slots();
    const size_t all = bytes * static_cast<size_t>(c.size());
    device_->Copy(room.outputs_out, send_.host(), all);
    CHOIR_RETURN_IF_ERROR(link_.BeginOutputs("combine", bytes, device_->stream()));
    CHOIR_RETURN_IF_ERROR(link_.End(device_->stream()));
    device_->Copy(recv_.host(), room.outputs_in, all);
    return device_->Wait();
  }
  // 100 bytes to and from each.
  Status Exchange(const Collectives& c) {
    std::vector<size_t> bytes(static_cast<size_t>(c.size()), 100);
    bytes[static_cast<size_t>(c.rank())] = 0;
    return Exchange(bytes, bytes);
  }
  Device& device() { return *device_; }
  std::byte* send() { return send_.host(); }
  std::byte* received() { return recv_.host(); }

 private:
  static constexpr size_t kBytes = 4096;
  DeviceCollectives& link_;
  std::unique_ptr<Device> device_;
  StagedBuffer send_, recv_;
};

class NcclCollectivesTest : public testing::Test {
 protected:
  NcclCollectivesTest() : handles_(emulation::EmulatedHandles()) {}
  ~NcclCollectivesTest() override {
    SetFakeNcclFaults({});
    EXPECT_EQ(FakeNcclHandles(), 0) << "communicators";
    EXPECT_EQ(emulation::EmulatedHandles(), handles_) << "streams and events";
  }
  static constexpr NcclParts kShort{.timeout = std::chrono::milliseconds(100),
                                    .connect_timeout = std::chrono::milliseconds(50)};

 private:
  const int64_t handles_;
};

std::byte ByteOf(int from, int to, size_t at) {
  return static_cast<std::byte>((from * 17 + to * 29 + static_cast<int>(at) * 7) & 0xff);
}

TEST_F(NcclCollectivesTest, BringsEveryByteToItsRankInTheOrderOfTheStreams) {
  NcclRanks ranks = MakeNcclRanks(4);
  EXPECT_EQ(ranks[0]->name(), "nccl+local");
  EXPECT_EQ(ranks[0]->device()->device_name(), "NCCL 2.28.9");
  RunRanks(ranks, [](Collectives& c) {
    Card card(&c);
    std::mt19937_64 random(7);  // the same on all ranks
    for (int round = 0; round < 20; ++round) {
      const auto n = static_cast<size_t>(c.size()), self = static_cast<size_t>(c.rank());
      std::vector<size_t> sends(n), receives(n);
      for (size_t i = 0; i < n * n; ++i) {
        const size_t bytes = i / n == i % n || random() % 3 == 0 ? 0 : random() % 200;
        if (i / n == self) sends[i % n] = bytes;
        if (i % n == self) receives[i / n] = bytes;
      }
      std::byte* to = card.send();
      for (size_t r = 0; r < n; ++r) {
        for (size_t i = 0; i < sends[r]; ++i) *to++ = ByteOf(c.rank(), static_cast<int>(r), i);
      }
      ASSERT_TRUE(card.Exchange(sends, receives).ok()) << c.status();
      const std::byte* from = card.received();
      for (size_t r = 0; r < n; ++r) {
        for (size_t i = 0; i < receives[r]; ++i) {
          ASSERT_EQ(*from++, ByteOf(static_cast<int>(r), c.rank(), i)) << r << " at " << i;
        }
      }
    }
  });
}

TEST_F(NcclCollectivesTest, TwoTransfersMayBeBegunAndTheFirstEndsFirst) {
  NcclRanks ranks = MakeNcclRanks(2);
  RunRanks(ranks, [](Collectives& c) {
    Card card(&c);
    const int other = 1 - c.rank();
    std::vector<size_t> bytes(2, 1000);
    bytes[static_cast<size_t>(c.rank())] = 0;
    for (int round = 0; round < 5; ++round) {
      for (const size_t at : {size_t{0}, Card::half()}) {
        for (size_t i = 0; i < 1000; ++i) {
          card.send()[at + i] = ByteOf(c.rank(), other + round, at + i);
        }
      }
      ASSERT_TRUE(card.ExchangeTwo(bytes, bytes).ok()) << c.status();
      for (const size_t at : {size_t{0}, Card::half()}) {
        for (size_t i = 0; i < 1000; ++i) {
          ASSERT_EQ(card.received()[at + i], ByteOf(other, c.rank() + round, at + i)) << i;
        }
      }
    }
  });
}

TEST_F(NcclCollectivesTest, SlotsOfAllRanksComeToEachOfThem) {
  NcclRanks ranks = MakeNcclRanks(3, 1, {.slots = {90}});
  EXPECT_EQ(FakeNcclWindows(), 3);
  RunRanks(ranks, [](Collectives& c) {
    Card card(&c);
    for (size_t round = 0; round < 3; ++round) {
      for (size_t i = 0; i < 90; ++i) card.send()[i] = ByteOf(c.rank(), static_cast<int>(round), i);
      ASSERT_TRUE(card.Gather(60, 30).ok()) << c.status();
      for (int r = 0; r < 3; ++r) {
        for (size_t i = 0; i < 90; ++i) {
          const size_t at =
              i < 60 ? static_cast<size_t>(r) * 60 + i : 180 + static_cast<size_t>(r) * 30 + i - 60;
          ASSERT_EQ(card.received()[at], ByteOf(r, static_cast<int>(round), i)) << r << " " << i;
        }
      }
    }
  });
}

TEST_F(NcclCollectivesTest, EqualPartsOfAllRanksComeToTheRankTheyAreFor) {
  NcclRanks ranks = MakeNcclRanks(3, 1, {.slots = {.slot = 90, .outputs = 300}});
  RunRanks(ranks, [](Collectives& c) {
    Card card(&c);
    for (const size_t bytes : {size_t{300}, size_t{40}}) {
      for (int to = 0; to < 3; ++to) {
        for (size_t i = 0; i < bytes; ++i) {
          card.send()[static_cast<size_t>(to) * bytes + i] = ByteOf(c.rank(), to, i);
        }
      }
      ASSERT_TRUE(card.Return(c, bytes).ok()) << c.status();
      for (int from = 0; from < 3; ++from) {
        for (size_t i = 0; i < bytes; ++i) {
          ASSERT_EQ(card.received()[static_cast<size_t>(from) * bytes + i],
                    ByteOf(from, c.rank(), i))
              << from << " " << i;
        }
      }
    }
  });
}

TEST_F(NcclCollectivesTest, WithoutTheLibraryEveryRankSaysSoAndGoesOnByTheHosts) {
  SetFakeNcclFaults({.open_error = "libnccl.so.2 cannot be opened"});
  NcclRanks ranks = MakeLocalCollectives(3, 1, {});
  for (const Status& answer : ConnectNcclRanks(&ranks)) {
    EXPECT_THAT(MessageOf(answer), HasSubstr("at rank 0 of 3: libnccl.so.2 cannot be opened"));
  }
  RunRanks(ranks, [](Collectives& c) {
    EXPECT_TRUE(c.Barrier().ok());
    EXPECT_EQ(c.device(), nullptr);
  });
}

TEST_F(NcclCollectivesTest, WithoutSymmetricMemoryOfAnyRankSlotsAreInPlainOne) {
  for (const int32_t card : {-2, 1}) {  // none has it; one has not
    SetFakeNcclFaults({.plain_card = card});
    const NcclRanks ranks = MakeNcclRanks(2, 1, {.slots = {90}});
    EXPECT_EQ(FakeNcclWindows(), 0);
    EXPECT_NE(ranks[0]->device()->slots().own, nullptr);
  }
}

TEST_F(NcclCollectivesTest, WindowsThatCannotBeRegisteredAreLeftAlone) {
  SetFakeNcclFaults({.unregistered_rank = 1});
  const NcclRanks ranks =
      MakeNcclRanks(2, 1, {.connect_timeout = std::chrono::seconds(1), .slots = {90}});
  EXPECT_EQ(ranks[0]->name(), "nccl+local");
  EXPECT_EQ(FakeNcclWindows(), 0);
}

TEST_F(NcclCollectivesTest, ARankThatDoesNotConnectIsATimeoutForAll) {
  SetFakeNcclFaults({.unconnected_rank = 2});
  NcclRanks ranks = MakeLocalCollectives(3, 1, {});
  for (const Status& answer : ConnectNcclRanks(&ranks, kShort)) {
    EXPECT_THAT(MessageOf(answer), HasSubstr("NCCL connect at rank 0 of 3 took longer than 50 ms"));
  }
  RunRanks(ranks, [](Collectives& c) { EXPECT_TRUE(c.Barrier().ok()); });
}

TEST_F(NcclCollectivesTest, ATransferThatDoesNotGetThroughShowsWhenTheyConnect) {
  SetFakeNcclFaults({.silent_rank = 1});
  NcclRanks ranks = MakeLocalCollectives(2, 1, {});
  for (const Status& answer : ConnectNcclRanks(&ranks, kShort)) EXPECT_FALSE(answer.ok());
  RunRanks(ranks, [](Collectives& c) { EXPECT_TRUE(c.Barrier().ok()); });
}

TEST_F(NcclCollectivesTest, AnErrorOfOneRankEndsTheTransferOfAllWithItsReason) {
  SetFakeNcclFaults({.failing_rank = 1, .failing_after = 1});
  NcclRanks ranks = MakeNcclRanks(3);
  RunRanks(ranks, [](Collectives& c) {
    Card card(&c);
    const Status failed = card.Exchange(c);
    EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(MessageOf(failed), HasSubstr("dispatch at rank 1 of 3: unhandled cuda error"));
    EXPECT_EQ(card.Exchange(c), failed) << "a dead communicator stays dead";
    EXPECT_EQ(c.Barrier(), failed);
    EXPECT_TRUE(card.device().status().ok()) << "the device is not to blame";
  });
}

TEST_F(NcclCollectivesTest, ARankThatHangsIsATimeoutForTheOthers) {
  NcclRanks ranks = MakeNcclRanks(3, 1, kShort);
  RunRanks(ranks, [](Collectives& c) {
    if (c.rank() == 0) return;
    Card card(&c);
    const Status late = card.Exchange(c);
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
    EXPECT_THAT(MessageOf(late), AllOf(HasSubstr("dispatch"), HasSubstr("100 ms")));
  });
  EXPECT_EQ(ranks[0]->status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(NcclCollectivesTest, ALostRankFreesThoseThatWaitForItsRows) {
  NcclRanks ranks = MakeNcclRanks(2);
  std::jthread waits([&] {
    Card card(ranks[1].get());
    const Status lost = card.Exchange(*ranks[1]);
    EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(MessageOf(lost), HasSubstr("rank 0 left"));
  });
  ranks[0].reset();
}

TEST_F(NcclCollectivesTest, AFailedDeviceIsTheReasonOnEveryRank) {
  NcclRanks ranks = MakeNcclRanks(2);
  RunRanks(ranks, [](Collectives& c) {
    Card card(&c);
    if (c.rank() == 1) emulation::FailCard(1, "uncorrectable ECC error encountered");
    const Status failed = card.Exchange(c);
    EXPECT_THAT(MessageOf(failed), HasSubstr("uncorrectable ECC error"));
  });
  ranks.clear();
  emulation::FailCard(1, nullptr);
}

TEST_F(NcclCollectivesTest, LeavingATransferThatIsNotOverEndsTheGeneration) {
  NcclRanks ranks = MakeNcclRanks(2);
  RunRanks(ranks, [](Collectives& c) {
    if (c.rank() == 1) return;
    Card card(&c);
    std::vector<size_t> bytes{0, 100};
    EXPECT_TRUE(c.device()
                    ->Begin({.what = "combine",
                             .send_bytes = std::vector<size_t>{0, 0},
                             .recv = card.received(),
                             .recv_bytes = bytes},
                            card.device().stream())
                    .ok());
  });
  EXPECT_THAT(MessageOf(ranks[1]->status()), HasSubstr("rank 0 left a transfer"));
}

TEST_F(NcclCollectivesTest, TheNextGenerationWorksAfterAFailedOne) {
  SetFakeNcclFaults({.failing_rank = 0, .failing_after = 1});
  NcclRanks ranks = MakeNcclRanks(2);
  const auto exchange = [](Collectives& c) { return Card(&c).Exchange(c); };
  RunRanks(ranks, [&](Collectives& c) { EXPECT_FALSE(exchange(c).ok()); });
  SetFakeNcclFaults({});
  ranks = MakeNcclRanks(2, 2);
  RunRanks(ranks, [&](Collectives& c) { EXPECT_TRUE(exchange(c).ok()) << c.status(); });
}

TEST(AbortLimitDeathTest, EndsTheProcessWithWhatDoesNotComeBack) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        (void)InitLog("test", "info");
        const AbortLimit limit(std::chrono::milliseconds(1));
        std::promise<void> never;
        never.get_future().wait();
      },
      testing::ExitedWithCode(1),
      "this process ends to be started again: NCCL's abort has not come back in 0.001 s");
}

}  // namespace
}  // namespace choir
