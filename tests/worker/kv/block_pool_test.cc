#include "worker/kv/block_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace choir {
namespace {

TEST(BlockPoolTest, GivesEveryBlockOnceThenNone) {
  BlockPool pool(5);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) seen.insert(*pool.Allocate());
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_EQ(pool.num_held(), 5);
  EXPECT_EQ(pool.LedgerDifference(), 0);
}

TEST(BlockPoolTest, ReusesTheBlockGivenBackLast) {
  BlockPool pool(8);
  const int32_t a = *pool.Allocate();
  const int32_t b = *pool.Allocate();
  pool.Free(b);
  pool.Free(a);
  EXPECT_EQ(*pool.Allocate(), a);
}

TEST(BlockPoolDeathTest, StopsOnABlockGivenBackTwice) {
  BlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Free(block);
  EXPECT_DEATH(pool.Free(block), "CHECK failed");
  EXPECT_DEATH(pool.Free(7), "CHECK failed");
}

TEST(BlockPoolTest, AgreesWithASetUnderRandomUse) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 rng(seed);
    const int64_t total = 1 + static_cast<int64_t>(rng() % 40);
    BlockPool pool(total);
    std::set<int32_t> held;
    for (int i = 0; i < 2000; ++i) {
      if (rng() % 2 == 0) {
        const auto block = pool.Allocate();
        ASSERT_EQ(block.has_value(), static_cast<int64_t>(held.size()) < total);
        if (block) {
          ASSERT_TRUE(*block >= 0 && *block < total);
          ASSERT_TRUE(held.insert(*block).second) << "block " << *block << " was given twice";
        }
      } else if (!held.empty()) {
        auto it = held.begin();
        std::advance(it, static_cast<int64_t>(rng() % held.size()));
        pool.Free(*it);
        held.erase(it);
      }
      ASSERT_EQ(pool.num_held(), static_cast<int64_t>(held.size()));
      ASSERT_EQ(pool.num_free() + pool.num_held(), pool.num_total());
    }
    EXPECT_TRUE(pool.IsConsistent());
  }
}

}  // namespace
}  // namespace choir
