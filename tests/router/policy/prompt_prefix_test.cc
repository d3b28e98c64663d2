#include "router/policy/prompt_prefix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

namespace choir {
namespace {

std::vector<int32_t> Tokens(size_t n) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 7);
  return tokens;
}

TEST(PromptPrefix, NamesBlocksAsWorkersDo) {
  const std::vector<int32_t> tokens = Tokens(100);
  const PromptPrefix prefix = MakePromptPrefix(tokens, "acme", 32);
  ASSERT_EQ(prefix.marks.size(), 3u) << "whole blocks only";
  BlockKey key = RootKey("acme");
  for (size_t i = 0; i < 3; ++i) {
    key = ChildKey(key, std::span(tokens).subspan(i * 32, 32), 32);
    EXPECT_EQ(std::memcmp(&prefix.marks[i].key, key.data(), 8), 0);
    EXPECT_EQ(prefix.marks[i].num_tokens, (i + 1) * 32);
  }
}

TEST(PromptPrefix, TenantsShareNothing) {
  EXPECT_NE(MakePromptPrefix(Tokens(32), "a", 32).marks[0].key,
            MakePromptPrefix(Tokens(32), "b", 32).marks[0].key);
}

TEST(PromptPrefix, PromptsThatBeginAlikeHaveTheSameMarks) {
  const auto whole = MakePromptPrefix(Tokens(40'000), "t", 4).marks;
  std::vector<int32_t> other = Tokens(30'000);
  other[20'000] = 1;
  const auto marks = MakePromptPrefix(other, "t", 4).marks;
  for (size_t i = 0; i < marks.size(); ++i) {
    EXPECT_EQ(marks[i].num_tokens, whole[i].num_tokens);
    EXPECT_EQ(marks[i].key == whole[i].key, marks[i].num_tokens <= 20'000);
  }
}

TEST(PromptPrefix, MarksAreFewAndNeverFarApart) {
  uint64_t last = 0, num = 0;
  for (uint64_t blocks = 1; blocks <= 1 << 16; ++blocks) {
    if (!HasMark(blocks)) continue;
    EXPECT_LE(blocks - last, 1 + last / 32);
    if (last > 0) {
      EXPECT_EQ(TokensToNextMark(static_cast<uint32_t>(last * 32), 32), (blocks - last) * 32);
    }
    last = blocks;
    ++num;
  }
  EXPECT_EQ(last, uint64_t{1} << 16);
  EXPECT_LE(num, 420u);
}

}  // namespace
}  // namespace choir
