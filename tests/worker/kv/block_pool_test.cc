#include "worker/kv/block_pool.h"

#include <gtest/gtest.h>

#include <string>

namespace choir {
namespace {

BlockKey KeyOf(int n) { return RootKey(std::to_string(n)); }

TEST(BlockPoolTest, GivesEveryBlockOnceThenNone) {
  BlockPool pool(5);
  std::vector<bool> seen(5);
  for (int i = 0; i < 5; ++i) seen[static_cast<size_t>(*pool.Allocate())] = true;
  EXPECT_EQ(seen, std::vector<bool>(5, true));
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_EQ(pool.num_held(), 5);
  EXPECT_EQ(pool.LedgerDifference(), 0);
}

TEST(BlockPoolTest, ReusesTheBlockGivenBackLast) {
  BlockPool pool(8);
  const int32_t a = *pool.Allocate();
  const int32_t b = *pool.Allocate();
  pool.Release(b);
  pool.Release(a);
  EXPECT_EQ(*pool.Allocate(), a);
}

TEST(BlockPoolTest, ABlockWithAKeyIsFoundUntilItsMemoryIsNeeded) {
  BlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Publish(block, KeyOf(1));
  EXPECT_EQ(pool.Find(KeyOf(1)), block);
  pool.Release(block);
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_held(), 0);
  EXPECT_EQ(pool.num_available(), 2);
  EXPECT_EQ(pool.Find(KeyOf(1)), block);
  EXPECT_NE(*pool.Allocate(), block);  // free memory goes first
  EXPECT_EQ(pool.Find(KeyOf(1)), block);
  EXPECT_EQ(*pool.Allocate(), block);
  EXPECT_EQ(pool.Find(KeyOf(1)), std::nullopt);
  EXPECT_TRUE(pool.IsConsistent());
}

TEST(BlockPoolTest, ASharedBlockIsHeldUntilItsLastHolderGoes) {
  BlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Publish(block, KeyOf(1));
  pool.Share(block);
  pool.Release(block);
  EXPECT_EQ(pool.num_held(), 1);
  EXPECT_EQ(pool.num_cached(), 0);
  pool.Release(block);
  EXPECT_EQ(pool.num_cached(), 1);
  pool.Share(block);  // a hit takes it out of the cached ones
  EXPECT_EQ(pool.num_held(), 1);
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_EQ(pool.holders(block), 1);
  EXPECT_TRUE(pool.IsConsistent());
}

TEST(BlockPoolTest, EvictsTheLeastRecentlyUsed) {
  BlockPool pool(3);
  int32_t blocks[3];
  for (int i = 0; i < 3; ++i) pool.Publish(blocks[i] = *pool.Allocate(), KeyOf(i));
  for (const int32_t block : blocks) pool.Release(block);
  pool.Share(blocks[0]);  // used once more
  pool.Release(blocks[0]);
  EXPECT_EQ(*pool.Allocate(), blocks[1]);
  EXPECT_EQ(*pool.Allocate(), blocks[2]);
  EXPECT_EQ(*pool.Allocate(), blocks[0]);
  EXPECT_FALSE(pool.Allocate().has_value());
}

TEST(BlockPoolTest, ACopyIsAnotherPool) {
  BlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Publish(block, KeyOf(1));
  BlockPool copy = pool;
  copy.Release(block);
  EXPECT_EQ(copy.num_cached(), 1);
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_TRUE(pool.IsConsistent() && copy.IsConsistent());
}

TEST(BlockPoolDeathTest, StopsOnABlockGivenBackTwice) {
  BlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Release(block);
  EXPECT_DEATH(pool.Release(block), "CHECK failed");
  EXPECT_DEATH(pool.Release(7), "CHECK failed");
  EXPECT_DEATH(pool.Share(block), "CHECK failed");
}

TEST(BlockPoolDeathTest, StopsOnTwoBlocksOfOneKey) {
  BlockPool pool(2);
  pool.Publish(*pool.Allocate(), KeyOf(1));
  const int32_t other = *pool.Allocate();
  EXPECT_DEATH(pool.Publish(other, KeyOf(1)), "CHECK failed");
}

}  // namespace
}  // namespace choir
