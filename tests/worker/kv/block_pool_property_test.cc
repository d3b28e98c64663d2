// Random sequences over a few prompts that begin alike, against a model that remembers what was
// written into every block: whoever finds or holds a block finds there what its key says.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "worker/kv/block_table.h"

namespace choir {
namespace {

constexpr size_t kBlockTokens = 2;

struct Sequence {
  std::vector<int32_t> tokens;  // kBlockTokens a block
  std::vector<BlockKey> keys;
  BlockTable table;
  int64_t computed = 0;  // blocks
};

class World {
 public:
  explicit World(uint32_t seed) : rng_(seed), pool_(Pick(1, 40)) {}

  // Few different tokens, so that many begin alike.
  void Arrive() {
    Sequence s;
    const int64_t blocks = Pick(1, std::min<int64_t>(pool_.num_total(), 12));
    BlockKey key = RootKey(std::to_string(Pick(0, 1)));
    s.tokens.push_back(key[0]);  // stands for the salt
    for (int64_t b = 0; b < blocks; ++b) {
      std::vector<int32_t> tokens;
      for (size_t t = 0; t < kBlockTokens; ++t) tokens.push_back(static_cast<int32_t>(Pick(0, 1)));
      s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
      key = ChildKey(key, tokens, kBlockTokens);
      s.keys.push_back(key);
    }
    size_t found = 0;
    while (found < s.keys.size() && pool_.Find(s.keys[found])) ++found;
    for (size_t b = found; b < s.keys.size(); ++b) {
      ASSERT_FALSE(pool_.Find(s.keys[b])) << "a block outlived one before it";
    }
    s.table.ShareAll(std::span(s.keys).first(found), &pool_);
    s.computed = static_cast<int64_t>(found);
    CheckContents(s);
    hits_ += found;
    living_.push_back(std::move(s));
  }

  // Takes the memory of its next blocks, writes them, and publishes them.
  void Compute() {
    if (living_.empty()) return;
    Sequence& s = living_[static_cast<size_t>(Pick(0, static_cast<int64_t>(living_.size()) - 1))];
    const int64_t end =
        std::min<int64_t>(s.computed + Pick(1, 4), static_cast<int64_t>(s.keys.size()));
    const int64_t available = pool_.num_available();
    const int64_t more = end - s.table.size();
    ASSERT_EQ(s.table.Grow(end, &pool_), more <= available);
    if (more > available) return;
    for (int64_t b = s.computed; b < end; ++b) {
      const int32_t block = s.table.blocks()[static_cast<size_t>(b)];
      ASSERT_EQ(pool_.holders(block), 1) << "a shared block is written";
      written_[block] = PrefixOf(s, b);
    }
    for (int64_t b = s.computed; b < end; ++b) {
      s.table.Publish(b, s.keys[static_cast<size_t>(b)], &pool_);
    }
    s.computed = end;
    CheckContents(s);
  }

  void Leave() {
    if (living_.empty()) return;
    const auto at = static_cast<long>(Pick(0, static_cast<int64_t>(living_.size()) - 1));
    CheckContents(living_[static_cast<size_t>(at)]);
    living_[static_cast<size_t>(at)].table.Release(&pool_);
    living_.erase(living_.begin() + at);
  }

  void Check() {
    std::map<int32_t, int32_t> holders;
    for (const Sequence& s : living_) {
      for (const int32_t block : s.table.blocks()) ++holders[block];
    }
    ASSERT_EQ(pool_.num_held(), static_cast<int64_t>(holders.size()));
    for (const auto& [block, count] : holders) ASSERT_EQ(pool_.holders(block), count);
    ASSERT_EQ(pool_.LedgerDifference(), 0);
    ASSERT_TRUE(pool_.IsConsistent());
  }

  void LeaveAll() {
    while (!living_.empty()) Leave();
    EXPECT_EQ(pool_.num_held(), 0);
    EXPECT_EQ(pool_.num_available(), pool_.num_total());
  }

  int64_t Pick(int64_t min, int64_t max) {
    return std::uniform_int_distribution<int64_t>(min, max)(rng_);
  }
  size_t hits() const { return hits_; }

 private:
  static std::vector<int32_t> PrefixOf(const Sequence& s, int64_t block) {
    return {s.tokens.begin(),
            s.tokens.begin() + 1 + (block + 1) * static_cast<int64_t>(kBlockTokens)};
  }
  void CheckContents(const Sequence& s) {
    for (int64_t b = 0; b < s.computed; ++b) {
      ASSERT_EQ(written_[s.table.blocks()[static_cast<size_t>(b)]], PrefixOf(s, b));
    }
  }

  std::mt19937 rng_;
  BlockPool pool_;
  std::vector<Sequence> living_;
  std::map<int32_t, std::vector<int32_t>> written_;  // salt and all tokens up to the block's end
  size_t hits_ = 0;
};

TEST(BlockPoolPropertyTest, WhatIsFoundIsWhatWasWritten) {
  size_t hits = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    World world(seed);
    for (int i = 0; i < 600; ++i) {
      switch (world.Pick(0, 3)) {
        case 0:
          world.Arrive();
          break;
        case 1:
          world.Leave();
          break;
        default:
          world.Compute();
      }
      world.Check();
      if (testing::Test::HasFatalFailure()) FAIL() << "seed " << seed;
    }
    world.LeaveAll();
    hits += world.hits();
  }
  EXPECT_GT(hits, 1000u);
}

}  // namespace
}  // namespace choir
