#include "worker/device/device.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>

#include "common/base/log.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "worker/device/measuring_device.h"
#include "worker/device/table_device.h"

namespace choir {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr size_t kMiB = size_t{1} << 20;

std::unique_ptr<Device> MakeCard(size_t reserve = kMiB) {
  auto device = MakeTableDevice(emulation::EmulatedDevices(), 0);
  CHOIR_CHECK(device.ok());
  CHOIR_CHECK((*device)->Reserve(reserve).ok());
  return std::move(device).value();
}

TEST(HostDevice, CopiesNothingWhereTheHostAndTheDeviceAreOne) {
  Device& host = HostDevice();
  EXPECT_TRUE(host.ReadsHostMemory());
  const auto staged = StagedBuffer::Make(&host, 64);
  ASSERT_TRUE(staged.ok());
  EXPECT_EQ(staged->host(), staged->device());
  const std::vector<int32_t> values = {1, 2, 3};
  EXPECT_EQ(staged->Put(std::span<const int32_t>(values)), values.data());
  EXPECT_TRUE(host.Wait().ok());
}

TEST(HostDevice, SaysWhatCouldNotBeHad) {
  const Status status = HostDevice().Allocate(size_t{1} << 60).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(status), HasSubstr(std::to_string(size_t{1} << 60)));
}

TEST(TableDevice, CopiesInALaneWaitForTheWorkBeforeAndNotForWhatFollows) {
  const auto device = MakeCard();
  const auto lane = device->MakeLane();
  ASSERT_TRUE(lane.ok()) << lane.status();
  const auto value = StagedBuffer::Make(device.get(), sizeof(int32_t));
  const auto after = device->AllocateHost(sizeof(int32_t));
  const auto down = device->AllocateHost(sizeof(int32_t));
  const auto set = [](std::byte* to, int32_t v) { std::memcpy(to, &v, sizeof v); };
  const auto get = [](const std::byte* from) {
    int32_t v = 0;
    std::memcpy(&v, from, sizeof v);
    return v;
  };
  set(value->host(), 1);
  set(after->data(), 2);
  value->Upload(0, sizeof(int32_t));
  (*lane)->Begin();
  device->Copy(value->device(), after->data(), sizeof(int32_t));
  (*lane)->Copy(down->data(), value->device(), sizeof(int32_t));
  ASSERT_TRUE((*lane)->Wait().ok());
  EXPECT_EQ(get(down->data()), 1);
  ASSERT_TRUE(device->Wait().ok());
  set(down->data(), 3);
  (*lane)->Copy(value->device(), down->data(), sizeof(int32_t));
  (*lane)->Join();
  value->Download(0, sizeof(int32_t));
  ASSERT_TRUE(device->Wait().ok());
  EXPECT_EQ(get(value->host()), 3);
}

TEST(TableDevice, SaysHowMuchMemoryCouldBeReserved) {
  emulation::SetCardMemory(0, 1000 * kMiB);
  const auto device = MakeCard(100 * kMiB);
  EXPECT_EQ(device->Room().value(), (1000 - 100 - 256) * kMiB);
  emulation::SetCardMemory(0, 0);
}

TEST(TableDevice, LeavesToNcclWhatItIsTold) {
  emulation::SetCardMemory(0, 1000 * kMiB);
  const auto device = MakeTableDevice(emulation::EmulatedDevices(), 0).value();
  device->LeaveForNccl(500 * kMiB);
  EXPECT_EQ(device->Room().value(), (1000 - 256 - 500) * kMiB);
  const Status status = device->Reserve(245 * kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(MessageOf(status),
              HasSubstr("245 MiB are needed, and 256 MiB for the driver and 500 MiB for NCCL; "
                        "1000 MiB of its 1000 MiB are free"));
  EXPECT_TRUE(device->Reserve(244 * kMiB).ok());
  emulation::SetCardMemory(0, 0);
}

TEST(TableDevice, BringsBytesThereAndBack) {
  const auto device = MakeCard();
  const auto staged = StagedBuffer::Make(device.get(), 4096);
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_NE(staged->host(), staged->device());
  std::vector<int32_t> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * i);
  const int32_t* there = staged->Put(std::span<const int32_t>(values), 64);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(there), staged->device() + 64);
  ASSERT_TRUE(device->Wait().ok());
  std::memset(staged->host(), 0, 4096);
  staged->Download(64, 4000);
  EXPECT_EQ(staged->host()[64 + 4], std::byte{0}) << "copies take place when they are waited for";
  ASSERT_TRUE(device->Wait().ok());
  EXPECT_EQ(std::memcmp(staged->host() + 64, values.data(), 4000), 0);
}

TEST(TableDeviceDeathTest, NobodyElseTouchesItsMemory) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        const auto device = MakeCard();
        const auto buffer = device->Allocate(64);
        buffer->data()[0] = std::byte{1};
      },
      "");
}

TEST(TableDevice, DealsOutWhatWasReservedAndNoMore) {
  const auto device = MakeCard(3 * kDeviceAlign);
  const auto first = device->Allocate(1), second = device->Allocate(kDeviceAlign + 1);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(second->data() - first->data(), static_cast<ptrdiff_t>(kDeviceAlign));
  const Status status = device->Allocate(1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(status), HasSubstr("reserved"));
}

TEST(TableDevice, RefusesMoreThanTheCardHasWithTheNumbers) {
  emulation::SetCardMemory(0, 1000 * kMiB);
  {
    auto device = MakeTableDevice(emulation::EmulatedDevices(), 0);
    ASSERT_TRUE(device.ok());
    const Status status = (*device)->Reserve(800 * kMiB);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(MessageOf(status),
                AllOf(HasSubstr("cuda:0 (an emulated card)"), HasSubstr("800 MiB are needed"),
                      HasSubstr("1000 MiB of its 1000 MiB are free")));
    EXPECT_TRUE((*device)->Reserve(10 * kMiB).ok());
  }
  emulation::SetCardMemory(0, 0);
}

TEST(TableDevice, AGraphDoesItsCopiesAgainWithWhatIsThereThen) {
  const auto device = MakeCard();
  ASSERT_TRUE(device->HasGraphs());
  const auto staged = StagedBuffer::Make(device.get(), 64);
  const auto back = device->AllocateHost(64);
  ASSERT_TRUE(staged.ok() && back.ok());
  std::memset(staged->host(), 1, 64);
  ASSERT_TRUE(device->BeginGraph().ok());
  staged->Upload(0, 64);
  device->Copy(back->data(), staged->device(), 64);
  const auto graph = device->EndGraph();
  ASSERT_TRUE(graph.ok()) << graph.status();
  std::memset(back->data(), 7, 64);
  ASSERT_TRUE(device->Wait().ok());
  EXPECT_EQ(back->data()[5], std::byte{7}) << "it was only recorded";
  for (const int value : {2, 3}) {
    std::memset(staged->host(), value, 64);
    device->RunGraph(*graph);
    ASSERT_TRUE(device->Wait().ok());
    EXPECT_EQ(back->data()[5], static_cast<std::byte>(value));
  }
}

TEST(TableDevice, AGraphThatCannotBeMadeIsNoErrorOfTheDevice) {
  const auto device = MakeCard();
  emulation::FailGraphs(0, "operation failed due to a previous error during capture");
  ASSERT_TRUE(device->BeginGraph().ok());
  EXPECT_EQ(device->EndGraph().status().code(), absl::StatusCode::kUnavailable);
  emulation::FailGraphs(0, nullptr);
  EXPECT_TRUE(device->Wait().ok());
}

TEST(TableDevice, AnErrorStays) {
  const auto device = MakeCard();
  EXPECT_TRUE(device->Wait().ok());
  emulation::FailCard(0, "uncorrectable ECC error encountered");
  const Status status = device->Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("cuda:0"), HasSubstr("ECC")));
  emulation::FailCard(0, nullptr);
  EXPECT_EQ(device->Wait(), status);
  EXPECT_EQ(device->status(), status);
}

// What the model asked for was not done, though the card goes on.
TEST(TableDevice, AStartThatWasRefusedIsAnErrorOfTheDevice) {
  const auto device = MakeCard();
  emulation::LeaveLaunchError("too many resources requested for launch");
  const Status status = device->Wait();
  EXPECT_THAT(MessageOf(status), HasSubstr("too many resources"));
  emulation::EmulatedDevices().forget();
  EXPECT_EQ(device->Wait(), status);
}

// Time that goes on by a second whenever somebody asks for it.
class QuickClock final : public Clock {
 public:
  MonoTime Now() const override { return Clock::Real().Now() + std::chrono::seconds(asked_++); }
  WallTime Wall() const override { return Clock::Real().Wall(); }

 private:
  mutable int asked_ = 0;
};

// A device whose card never ends what it was given.
class HungDeviceDeathTest : public testing::Test {
 protected:
  // In the process that is to end.
  void Hang() {
    (void)InitLog("test", "info");
    auto made =
        MakeTableDevice(emulation::EmulatedDevices(), 0, {.limit = kLimit, .clock = &clock_});
    device_ = std::move(made).value();
    CHOIR_CHECK(device_->Reserve(kMiB).ok());
    staged_ = StagedBuffer::Make(device_.get(), 64).value();
    lane_ = device_->MakeLane().value();
    emulation::HangCard(0);
    staged_.Upload(0, 64);
  }

  static constexpr Duration kLimit = std::chrono::seconds(20);
  static constexpr char kSaid[] =
      "the device failed, this process ends to be started again: cuda:0 .an emulated card.: a step "
      "or a copy has not ended in 20 s .--device-timeout.";
  QuickClock clock_;
  std::unique_ptr<Device> device_;
  StagedBuffer staged_;
  std::unique_ptr<DeviceLane> lane_;
};

TEST_F(HungDeviceDeathTest, AWaitEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(Hang(); (void)device_->Wait(), testing::ExitedWithCode(1), kSaid);
}

TEST_F(HungDeviceDeathTest, AGuardedWaitEndsTheProcessWhereNobodyAborts) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        Hang();
        int asked = 0;
        device_->Guard(
            [&asked]() -> Status { return ++asked < 5 ? Status() : Unavailable("gone"); });
        (void)device_->Wait();
      },
      testing::ExitedWithCode(1), kSaid);
}

TEST_F(HungDeviceDeathTest, AWaitOfALaneEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        Hang();
        lane_->Copy(staged_.host(), staged_.device(), 64);
        (void)lane_->Wait();
      },
      testing::ExitedWithCode(1), kSaid);
}

TEST_F(HungDeviceDeathTest, ItsEndEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(Hang(); lane_.reset(); device_.reset(), testing::ExitedWithCode(1), kSaid);
}

TEST(TableDevice, ACardThatIsNotThereIsAnError) {
  EXPECT_FALSE(MakeTableDevice(emulation::EmulatedDevices(), 99).ok());
}

TEST(MeasuringDevice, CountsWhatACardWouldTake) {
  MeasuringDevice measuring;
  EXPECT_TRUE(measuring.Allocate(1).ok());
  EXPECT_TRUE(StagedBuffer::Make(&measuring, kDeviceAlign).ok());
  EXPECT_TRUE(measuring.AllocateHost(kMiB).ok());
  EXPECT_EQ(measuring.bytes(), 2 * kDeviceAlign);
}

}  // namespace
}  // namespace choir
