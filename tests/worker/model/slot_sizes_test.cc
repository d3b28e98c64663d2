#include "worker/model/slot_sizes.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

// DeepSeek-V3 on eight ranks: 1.75 MiB of outputs a row.
constexpr SlotShape kShape{.num_ranks = 8, .top_k = 8, .hidden = 7168};
constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(SlotSizes, OutputsReturnInEqualPartsUpToTheLimitAndNoMoreRowsThanGoInSlots) {
  EXPECT_EQ(OutputRows({.rows = 16, .output_bytes = 16 * kMiB}, kShape), 9);
  EXPECT_EQ(OutputRows({.rows = 4, .output_bytes = 16 * kMiB}, kShape), 4);
  EXPECT_EQ(OutputRows({.rows = 16, .output_bytes = 7 * kMiB / 4}, kShape), 1) << "at the edge";
  EXPECT_EQ(OutputRows({.rows = 16, .output_bytes = 7 * kMiB / 4 - 1}, kShape), 0);
  EXPECT_EQ(OutputRows({.rows = 16, .output_bytes = 0}, kShape), 0);
  EXPECT_EQ(OutputRows({.rows = 0, .output_bytes = 16 * kMiB}, kShape), 0);
}

TEST(SlotSizes, ARankAloneAndAModelWithoutExpertsHaveNone) {
  EXPECT_EQ(OutputRows({.rows = 16, .output_bytes = 16 * kMiB}, {1, 8, 7168}), 0);
  EXPECT_EQ(OutputRows({.rows = 16, .output_bytes = 16 * kMiB}, {8, 0, 7168}), 0);
}

TEST(SlotSizes, TheRoomHoldsRowsWithTheirChoicesAndAnOutputForEachChoice) {
  const DeviceSlotSizes sizes = SlotSizesOf({.rows = 16, .output_bytes = 16 * kMiB}, kShape);
  EXPECT_EQ(sizes.slot, 16u * 8 * 4 + 16 * 7168 * 4);
  EXPECT_EQ(sizes.outputs, 9u * 8 * 7168 * 4);
  EXPECT_EQ(SlotBytes(1, {.num_ranks = 2, .top_k = 1, .hidden = 1}), 512u) << "aligned apart";
}

}  // namespace
}  // namespace choir
