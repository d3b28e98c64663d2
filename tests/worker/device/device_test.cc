#include "worker/device/device.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>

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
