#include "worker/kv/block_table.h"

#include <gtest/gtest.h>

#include <set>

namespace choir {
namespace {

std::vector<BlockKey> Chain(int length, std::string_view salt = "") {
  std::vector<BlockKey> keys;
  for (int32_t i = 0; i < length; ++i) {
    keys.push_back(ChildKey(keys.empty() ? RootKey(salt) : keys.back(), std::span(&i, 1), 1));
  }
  return keys;
}

void PublishAll(const std::vector<BlockKey>& keys, BlockTable* table, BlockPool* pool) {
  for (size_t i = 0; i < keys.size(); ++i) {
    table->Publish(static_cast<int64_t>(i), keys[i], pool);
  }
}

TEST(BlockTableTest, RoundsTokensUpToBlocks) {
  EXPECT_EQ(BlocksFor(0, 32), 0);
  EXPECT_EQ(BlocksFor(1, 32), 1);
  EXPECT_EQ(BlocksFor(32, 32), 1);
  EXPECT_EQ(BlocksFor(33, 32), 2);
}

TEST(BlockTableTest, GivesEachTokenASlotOfItsOwn) {
  BlockPool pool(6);
  BlockTable a, b;
  ASSERT_TRUE(a.Grow(2, &pool));
  ASSERT_TRUE(b.Grow(1, &pool));
  ASSERT_TRUE(a.Grow(3, &pool));  // not contiguous with its first two
  std::set<int64_t> slots;
  for (int64_t p = 0; p < 12; ++p) slots.insert(a.Slot(p, 4));
  for (int64_t p = 0; p < 4; ++p) slots.insert(b.Slot(p, 4));
  EXPECT_EQ(slots.size(), 16u);
  EXPECT_EQ(a.Slot(5, 4), int64_t{a.blocks()[1]} * 4 + 1);
  a.Release(&pool);
  b.Release(&pool);
  EXPECT_EQ(pool.num_held(), 0);
}

TEST(BlockTableTest, ChangesNothingWhenThePoolHasTooFew) {
  BlockPool pool(3);
  BlockTable table;
  ASSERT_TRUE(table.Grow(2, &pool));
  EXPECT_FALSE(table.Grow(4, &pool));
  EXPECT_EQ(table.size(), 2);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockTableTest, SharesWhatAnotherPublished) {
  BlockPool pool(8);
  const std::vector<BlockKey> keys = Chain(3);
  BlockTable first, second;
  ASSERT_TRUE(first.Grow(3, &pool));
  PublishAll(keys, &first, &pool);
  second.ShareAll(std::span(keys).first(2), &pool);
  ASSERT_TRUE(second.Grow(3, &pool));
  EXPECT_EQ(second.blocks()[1], first.blocks()[1]);
  EXPECT_NE(second.blocks()[2], first.blocks()[2]);
  EXPECT_EQ(pool.num_held(), 4);
  first.Release(&pool);
  EXPECT_EQ(pool.num_held(), 3);
  EXPECT_EQ(pool.num_cached(), 1);  // the third of the first
  second.Release(&pool);
  EXPECT_EQ(pool.num_cached(), 3);
  EXPECT_TRUE(pool.IsConsistent());
}

TEST(BlockTableTest, GivesUpABlockThatAnotherHasPublished) {
  BlockPool pool(4);
  const std::vector<BlockKey> keys = Chain(2);
  BlockTable first, second;
  ASSERT_TRUE(first.Grow(2, &pool));
  ASSERT_TRUE(second.Grow(2, &pool));
  PublishAll(keys, &first, &pool);
  PublishAll(keys, &second, &pool);
  EXPECT_TRUE(std::ranges::equal(first.blocks(), second.blocks()));
  EXPECT_EQ(pool.num_held(), 2);
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(BlockTableTest, TheEndOfASequenceIsEvictedBeforeItsBegin) {
  BlockPool pool(3);
  const std::vector<BlockKey> keys = Chain(3);
  BlockTable table, other;
  ASSERT_TRUE(table.Grow(3, &pool));
  PublishAll(keys, &table, &pool);
  table.Release(&pool);
  ASSERT_TRUE(other.Grow(1, &pool));
  EXPECT_TRUE(pool.Find(keys[0]) && pool.Find(keys[1]));
  EXPECT_FALSE(pool.Find(keys[2]));
}

TEST(BlockKeyTest, NamesTokensRolesPrefixAndSalt) {
  const std::vector<int32_t> tokens = {1, 2, 3}, others = {1, 2, 4};
  const BlockKey key = ChildKey(RootKey("a"), tokens, 3);
  EXPECT_EQ(key, ChildKey(RootKey("a"), tokens, 3));
  EXPECT_NE(key, ChildKey(RootKey("b"), tokens, 3));
  EXPECT_NE(key, ChildKey(RootKey("a"), others, 3));
  EXPECT_NE(key, ChildKey(RootKey("a"), tokens, 2));
  EXPECT_NE(key, ChildKey(key, tokens, 3));
  EXPECT_NE(RootKey(""), RootKey("a"));
}

}  // namespace
}  // namespace choir
