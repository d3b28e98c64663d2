#include "tools/model/expert_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tools/model/split_mix.h"

namespace choir {
namespace {

TEST(SplitMix64, DrawsTheKnownNumbers) {
  SplitMix64 random(1234567);  // the sequence published with the algorithm's C code
  EXPECT_EQ(random.Next(), 6457827717110365317u);
  EXPECT_EQ(random.Next(), 3203168211198807973u);
  EXPECT_EQ(random.Next(), 9817491932198370423u);
}

TEST(SplitMix64, PermutationsAreTheReferenceConverters) {
  EXPECT_THAT(SplitMix64(42).Permutation(10), testing::ElementsAre(8, 3, 6, 5, 4, 0, 9, 2, 1, 7));
  EXPECT_THAT(SplitMix64(1).Permutation(1), testing::ElementsAre(0));
  EXPECT_THAT(SplitMix64(1).Permutation(0), testing::IsEmpty());
}

class ExpertSplitTest : public testing::TestWithParam<int32_t> {
 protected:
  ExpertSplit split_{.hidden = 10, .ffn = 96, .spread = GetParam()};
  LayerSplit layer_ = SplitLayer(split_, 3, std::vector<bf16>(10, ToBF16(1.0f)));
};

TEST_P(ExpertSplitTest, EveryCopyAndTheSharedExpertHoldAllNeuronsOnce) {
  for (int32_t copy = 0; copy < ExpertSplit::kCopies; ++copy) {
    std::vector<int32_t> neurons = layer_.shared;
    for (int32_t slice = 0; slice < ExpertSplit::kSlices; ++slice) {
      const auto& rows = layer_.experts[static_cast<size_t>(split_.Expert(copy, slice))];
      EXPECT_EQ(rows.size(), 8u);
      neurons.insert(neurons.end(), rows.begin(), rows.end());
    }
    std::sort(neurons.begin(), neurons.end());
    std::vector<int32_t> all(96);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(neurons, all);
  }
}

TEST_P(ExpertSplitTest, CopiesDiffer) {
  EXPECT_NE(layer_.experts[static_cast<size_t>(split_.Expert(0, 0))],
            layer_.experts[static_cast<size_t>(split_.Expert(1, 0))]);
}

TEST_P(ExpertSplitTest, ACopyFillsItsGroupsAndSharesOneRouterRow) {
  std::set<int32_t> seen;
  for (int32_t copy = 0; copy < ExpertSplit::kCopies; ++copy) {
    std::set<int32_t> groups;
    for (int32_t slice = 0; slice < ExpertSplit::kSlices; ++slice) {
      const int32_t expert = split_.Expert(copy, slice);
      EXPECT_TRUE(seen.insert(expert).second);
      groups.insert(expert / split_.group_size());
      for (int32_t i = 0; i < 10; ++i) {
        EXPECT_EQ(layer_.gate[static_cast<size_t>(expert * 10 + i)],
                  layer_.gate[static_cast<size_t>(split_.Expert(copy, 0) * 10 + i)]);
      }
    }
    EXPECT_EQ(groups.size(), static_cast<size_t>(split_.spread));
  }
}

TEST_P(ExpertSplitTest, GroupsOfACopyHaveTheSameSetOfBiases) {
  for (int32_t copy = 0; copy < ExpertSplit::kCopies; ++copy) {
    std::set<std::multiset<float>> sets;
    for (int32_t first = 0; first < ExpertSplit::kSlices; first += split_.group_size()) {
      std::multiset<float> biases;
      for (int32_t i = 0; i < split_.group_size(); ++i) {
        biases.insert(layer_.bias[static_cast<size_t>(split_.Expert(copy, first + i))]);
      }
      sets.insert(biases);
    }
    EXPECT_EQ(sets.size(), 1u);
  }
}

INSTANTIATE_TEST_SUITE_P(Spreads, ExpertSplitTest, testing::Values(1, 2, 4));

}  // namespace
}  // namespace choir
