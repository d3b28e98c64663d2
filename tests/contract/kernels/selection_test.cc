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

}  // namespace
}  // namespace choir
