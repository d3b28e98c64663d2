#include <gmock/gmock.h>

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

using testing::HasSubstr;

TEST(CpuKernelSelection, AutoTakesTheBestPath) {
  const auto kernels = MakeCpuKernels("auto");
  ASSERT_TRUE(kernels.ok());
  EXPECT_EQ((*kernels)->Name(), "cpu-" + CpuPaths().front());
}

TEST(CpuKernelSelection, EveryCpuHasThePortablePath) {
  EXPECT_EQ(CpuPaths().back(), "portable");
  EXPECT_TRUE(MakeCpuKernels("portable").ok());
}

TEST(CpuKernelSelection, UnknownPathNamesThoseThatWork) {
  const Status status = MakeCpuKernels("mmx").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(MessageOf(status), HasSubstr("mmx"));
  for (const std::string& path : CpuPaths()) EXPECT_THAT(MessageOf(status), HasSubstr(path));
}

TEST(CpuKernelSelection, WorkspaceCoversAtLeastOneRowOfEachOp) {
  const auto kernels = MakeCpuKernels("auto");
  ASSERT_TRUE(kernels.ok());
  const KernelLimits limits{
      .rows_max = 1, .columns_max = 7168, .positions_max = 163840, .heads_max = 128};
  EXPECT_GE((*kernels)->WorkspaceBytes(limits, 4), size_t{4} * 163840 * 4);
}

// MLA copies the rope columns of every head of a row as a row of its own.
TEST(TableKernels, AWorkspaceHoldsASlotForEveryHeadOfEveryRow) {
  const auto kernels = MakeTableKernels(GpuTable("gpu_emulated"));
  constexpr int64_t kRows = 96, kHeads = 128;
  TestStream stream(*kernels, {.rows_max = kRows, .positions_max = 64, .heads_max = kHeads}, 1);
  Random random(1);
  const Tensor x = random.Values(DType::kF32, {kRows * kHeads, 4}), pool = x.Clone();
  const std::vector<int64_t> slots(kRows * kHeads, 0);
  const TensorView kv(pool.view().raw(), DType::kF32, {kRows * kHeads, 1, 4});
  kernels->StoreKv({.x = x, .kv = {kv}, .slots = slots}, stream.get());
}

TEST(TableKernels, TheNameHasTheChipWhereBitsMayDiffer) {
  EXPECT_EQ(MakeTableKernels(GpuTable("gpu_emulated"))->Name(), "cuda-simple-emulated");
  EXPECT_EQ(MakeTableKernels(GpuTable("gpu_emulated"), "sm90")->Name(),
            "cuda-simple-emulated-sm90");
}

}  // namespace
}  // namespace choir
