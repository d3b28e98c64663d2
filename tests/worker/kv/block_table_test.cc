#include "worker/kv/block_table.h"

#include <gtest/gtest.h>

#include <set>

namespace choir {
namespace {

TEST(BlockTableTest, RoundsTokensUpToBlocks) {
  EXPECT_EQ(BlocksFor(0, 32), 0);
  EXPECT_EQ(BlocksFor(1, 32), 1);
  EXPECT_EQ(BlocksFor(32, 32), 1);
  EXPECT_EQ(BlocksFor(33, 32), 2);
}

TEST(BlockTableTest, GivesEachTokenASlotOfItsOwn) {
  BlockPool pool(6);
  BlockTable a(4), b(4);
  ASSERT_TRUE(a.Grow(2, &pool));
  ASSERT_TRUE(b.Grow(1, &pool));
  ASSERT_TRUE(a.Grow(3, &pool));  // not contiguous with its first two
  std::set<int64_t> slots;
  for (int64_t p = 0; p < a.capacity_tokens(); ++p) slots.insert(a.Slot(p));
  for (int64_t p = 0; p < b.capacity_tokens(); ++p) slots.insert(b.Slot(p));
  EXPECT_EQ(slots.size(), 16u);
  EXPECT_EQ(a.Slot(5), int64_t{a.data()[1]} * 4 + 1);
  a.Release(&pool);
  b.Release(&pool);
  EXPECT_EQ(pool.num_held(), 0);
}

TEST(BlockTableTest, ChangesNothingWhenThePoolHasTooFew) {
  BlockPool pool(3);
  BlockTable table(4);
  ASSERT_TRUE(table.Grow(2, &pool));
  EXPECT_FALSE(table.Grow(4, &pool));
  EXPECT_EQ(table.size(), 2);
  EXPECT_EQ(pool.num_free(), 1);
  table.Release(&pool);
}

TEST(BlockTableDeathTest, MayNotDieWithBlocks) {
  EXPECT_DEATH(
      {
        BlockPool pool(2);
        BlockTable table(4);
        table.Grow(1, &pool);
      },
      "CHECK failed");
}

}  // namespace
}  // namespace choir
