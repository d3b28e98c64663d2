// Rows of the host's experts have the bits of the host's kernels, the others those of the device's.
#include "worker/model/layers/host_ffn.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/gpu_ranks.h"

namespace choir {
namespace {

constexpr int64_t kHidden = 12, kWidth = 7;
const std::vector<int32_t> kOffsets = {0, 3, 3, 8, 9, 14};  // of five experts
constexpr int64_t kRows = 14;

class HostFfnTest : public testing::Test {
 protected:
  HostFfnTest() : gpu_(MakeGpuRank("gpu_emulated", 0)), team_(2) {
    CHOIR_CHECK(gpu_.device->Reserve(size_t{4} << 20).ok());
    x_ = Random(kRows * kHidden);
    for (size_t e = 0; e + 1 < kOffsets.size(); ++e) {
      for (int i = 0; i < 3; ++i) matrices_.push_back(Random(kHidden * kWidth));
    }
    const StatusOr<DeviceBuffer> workspace =
        gpu_.device->Allocate(gpu_.kernels->WorkspaceBytes(Limits(), 1));
    workspace_ = workspace.value();
  }

  static KernelLimits Limits() {
    return {.rows_max = kRows, .columns_max = kHidden, .positions_max = 1, .heads_max = 1};
  }
  std::vector<float> Random(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = normal(random_);
    return values;
  }
  // Of expert e, in the host's memory.
  ExpertWeights OnHost(size_t e) {
    const auto view = [&](size_t i, int64_t rows, int64_t columns) {
      return TensorView(static_cast<const void*>(matrices_[3 * e + i].data()), DType::kF32,
                        {rows, columns});
    };
    return {.gate = view(0, kWidth, kHidden),
            .up = view(1, kWidth, kHidden),
            .down = view(2, kHidden, kWidth)};
  }
  TensorView OnDevice(const TensorView& host) {
    staged_.push_back(StagedBuffer::Make(gpu_.device.get(), host.num_bytes()).value());
    const StagedBuffer& staged = staged_.back();
    std::memcpy(staged.host(), host.raw(), host.num_bytes());
    staged.Upload(0, host.num_bytes());
    return TensorView(static_cast<void*>(staged.device()), DType::kF32, {host.dim(0), host.dim(1)});
  }
  ExpertWeights OnDevice(const ExpertWeights& host) {
    return {.gate = OnDevice(host.gate), .up = OnDevice(host.up), .down = OnDevice(host.down)};
  }
  TensorView DeviceRows(int64_t width) {
    const std::vector<float> zeros(static_cast<size_t>(kRows * width), 0);
    return OnDevice(
        TensorView(static_cast<const void*>(zeros.data()), DType::kF32, {kRows, width}));
  }
  std::vector<float> RowsOf(const TensorView& y) {
    staged_.push_back(StagedBuffer::Make(gpu_.device.get(), y.num_bytes()).value());
    gpu_.device->Copy(staged_.back().host(), y.raw(), y.num_bytes());
    CHOIR_CHECK(gpu_.device->Wait().ok());
    const auto* begin = reinterpret_cast<const float*>(staged_.back().host());
    return {begin, begin + y.num_elements()};
  }

  // Outputs where the experts from `device_experts` on are the host's; nothing: all by `kernels`
  // alone.
  std::vector<float> Split(size_t device_experts, int64_t rows_max) {
    std::vector<ExpertWeights> experts;
    for (size_t e = 0; e + 1 < kOffsets.size(); ++e) {
      experts.push_back(e < device_experts ? OnDevice(OnHost(e)) : OnHost(e));
    }
    const TensorView x(static_cast<const void*>(x_.data()), DType::kF32, {kRows, kHidden});
    const ExpertFfnArgs args{.x = OnDevice(x),
                             .offsets = kOffsets,
                             .experts = experts,
                             .y = DeviceRows(kHidden),
                             .scratch = DeviceRows(kWidth)};
    auto ffn =
        HostFfn::Make(gpu_.device.get(), host_.get(),
                      {.rows_max = rows_max, .hidden = kHidden, .width = kWidth, .num_threads = 2});
    CHOIR_CHECK(ffn.ok());
    const Status status = ffn->Run(*gpu_.kernels, args, device_experts, Work());
    EXPECT_TRUE(status.ok()) << status;
    return RowsOf(args.y);
  }
  std::vector<float> ByHostAlone() {
    std::vector<ExpertWeights> experts;
    for (size_t e = 0; e + 1 < kOffsets.size(); ++e) experts.push_back(OnHost(e));
    std::vector<float> y(kRows * kHidden), scratch(kRows * kWidth);
    std::vector<std::byte> workspace(host_->WorkspaceBytes(Limits(), 2) + 64);
    const auto at = reinterpret_cast<uintptr_t>(workspace.data());
    host_->ExpertFfn(
        {.x = TensorView(static_cast<const void*>(x_.data()), DType::kF32, {kRows, kHidden}),
         .offsets = kOffsets,
         .experts = experts,
         .y = TensorView(static_cast<void*>(y.data()), DType::kF32, {kRows, kHidden}),
         .scratch = TensorView(static_cast<void*>(scratch.data()), DType::kF32, {kRows, kWidth})},
        {.team = &team_,
         .workspace = {workspace.data() + (64 - at % 64) % 64, workspace.size() - 64}});
    return y;
  }
  Stream Work() {
    return {.team = &team_,
            .workspace = {workspace_.data(), workspace_.size()},
            .native = gpu_.device->stream()};
  }

  std::mt19937 random_{3};
  GpuRank gpu_;
  ThreadTeam team_;
  const std::unique_ptr<KernelSet> host_ = MakeCpuKernels("auto").value();
  std::vector<float> x_;
  std::vector<std::vector<float>> matrices_;  // gate, up and down of each expert
  std::vector<StagedBuffer> staged_;
  DeviceBuffer workspace_;
};

TEST_F(HostFfnTest, EachExpertHasTheBitsOfWhoComputesIt) {
  const std::vector<float> host = ByHostAlone(), device = Split(kOffsets.size() - 1, kRows);
  ASSERT_NE(host, device) << "rounded alike, the test would show nothing";
  for (size_t experts = 0; experts < kOffsets.size(); ++experts) {
    const auto border = static_cast<size_t>(kOffsets[experts] * kHidden);
    std::vector<float> want(device.begin(), device.begin() + static_cast<std::ptrdiff_t>(border));
    want.insert(want.end(), host.begin() + static_cast<std::ptrdiff_t>(border), host.end());
    EXPECT_EQ(Split(experts, kRows), want) << experts << " experts of the device";
    EXPECT_EQ(Split(experts, 2), want) << "two rows at a time";
  }
}

TEST_F(HostFfnTest, AFailedDeviceEndsIt) {
  const ExpertWeights expert = OnHost(0);
  const std::vector<int32_t> offsets = {0, kRows};
  auto ffn = HostFfn::Make(gpu_.device.get(), host_.get(),
                           {.rows_max = kRows, .hidden = kHidden, .width = kWidth});
  ASSERT_TRUE(ffn.ok());
  const ExpertFfnArgs args{.x = DeviceRows(kHidden),
                           .offsets = offsets,
                           .experts = std::span(&expert, 1),
                           .y = DeviceRows(kHidden),
                           .scratch = DeviceRows(kWidth)};
  emulation::FailCard(0, "an illegal memory access was encountered");
  EXPECT_FALSE(ffn->Run(*gpu_.kernels, args, 0, Work()).ok());
  emulation::FailCard(0, nullptr);
  EXPECT_FALSE(gpu_.device->status().ok()) << "the process has to end";
}

}  // namespace
}  // namespace choir
