#include "router/policy/prefix_index.h"

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <random>

namespace choir {
namespace {

std::vector<PrefixMark> Prompt(uint64_t first, size_t n) {
  std::vector<PrefixMark> marks;
  for (size_t i = 0; i < n; ++i) {
    marks.push_back({first + i, static_cast<uint32_t>((i + 1) * 32)});
  }
  return marks;
}

std::vector<uint32_t> Holders(const PrefixIndex& index, uint64_t key) {
  const auto holders = index.HoldersOf({key, 32});
  return {holders.begin(), holders.end()};
}

TEST(PrefixIndex, KnowsWhoHasHowMuchOfAPrompt) {
  PrefixIndex index(100);
  index.Insert(Prompt(10, 4), 1);
  index.Insert(Prompt(10, 2), 2);
  EXPECT_EQ(index.NumKnown(Prompt(10, 9)), 4u);
  EXPECT_EQ(Holders(index, 11), (std::vector<uint32_t>{2, 1})) << "the last one told comes first";
  EXPECT_EQ(Holders(index, 12), (std::vector<uint32_t>{1}));
  EXPECT_TRUE(Holders(index, 99).empty());
  EXPECT_EQ(index.size(), 4u);
}

TEST(PrefixIndex, KeepsTheLastHoldersOfAMark) {
  PrefixIndex index(10);
  for (uint32_t holder = 1; holder <= 8; ++holder) index.Insert(Prompt(5, 1), holder);
  EXPECT_EQ(Holders(index, 5), (std::vector<uint32_t>{8, 7, 6, 5, 4, 3}));
}

TEST(PrefixIndex, ForgetsWhatWasNotUsedForLongestAndEndsBeforeBegins) {
  PrefixIndex index(6);
  index.Insert(Prompt(10, 3), 1);
  index.Insert(Prompt(20, 3), 1);
  index.Insert(Prompt(10, 3), 1);  // used again
  index.Insert(Prompt(30, 2), 1);
  EXPECT_EQ(index.NumKnown(Prompt(10, 3)), 3u);
  EXPECT_EQ(index.NumKnown(Prompt(20, 3)), 1u);
  EXPECT_EQ(index.NumKnown(Prompt(30, 2)), 2u);
  EXPECT_EQ(index.size(), 6u);
  EXPECT_EQ(index.num_forgotten(), 2u);
}

TEST(PrefixIndex, APromptLongerThanTheIndexKeepsItsBegin) {
  PrefixIndex index(4);
  index.Insert(Prompt(1, 100), 1);
  EXPECT_EQ(index.NumKnown(Prompt(1, 100)), 4u);
  EXPECT_EQ(index.num_forgotten(), 0u);
}

// Against a plain list of marks in order of use; also that what is known is closed towards the
// begin, and that the bound holds.
TEST(PrefixIndex, AnyPromptsInAnyOrder) {
  constexpr size_t kMax = 1500;
  PrefixIndex index(kMax);
  std::mt19937_64 rng(3);
  std::list<uint64_t> used;  // the last one first
  std::map<uint64_t, std::list<uint64_t>::iterator> where;
  for (int round = 0; round < 4000; ++round) {
    const auto prompt = Prompt(1 + rng() % 40 * 1000, 1 + rng() % 120);
    index.Insert(prompt, 1 + static_cast<uint32_t>(rng() % 20));
    for (size_t i = prompt.size(); i-- > 0;) {
      const auto known = where.find(prompt[i].key);
      if (known != where.end()) used.erase(known->second);
      used.push_front(prompt[i].key);
      where[prompt[i].key] = used.begin();
      if (used.size() <= kMax) continue;
      where.erase(used.back());
      used.pop_back();
    }
    ASSERT_EQ(index.size(), used.size());
    const auto asked = Prompt(1 + rng() % 40 * 1000, 120);
    size_t known = 0;
    while (known < asked.size() && where.contains(asked[known].key)) ++known;
    ASSERT_EQ(index.NumKnown(asked), known) << "round " << round;
    for (size_t i = known; i < asked.size(); ++i) ASSERT_FALSE(where.contains(asked[i].key));
  }
  EXPECT_GT(index.num_forgotten(), 0u);
}

}  // namespace
}  // namespace choir
