#include "worker/rpc/sequence_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace choir {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

TEST(SequenceRegistry, KeepsRoutersWithEqualIdsApart) {
  SequenceRegistry registry;
  registry.Open(1);
  registry.Open(2);
  const auto a = registry.Add(1, 7);
  const auto b = registry.Add(2, 7);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(*a, *b);
  EXPECT_EQ(registry.OwnerOf(*a)->session, 1u);
  EXPECT_EQ(registry.OwnerOf(*b)->session, 2u);
  EXPECT_EQ(registry.Find(2, 7), *b);
  registry.Remove(*a);
  EXPECT_FALSE(registry.Find(1, 7).has_value());
  EXPECT_FALSE(registry.OwnerOf(*a).has_value());
  EXPECT_EQ(registry.num_sequences(), 1u);
  registry.Remove(*a);
}

TEST(SequenceRegistry, RefusesAnIdInUseAndAllowsItAgainAfterItsEnd) {
  SequenceRegistry registry;
  registry.Open(1);
  const auto first = registry.Add(1, 7);
  EXPECT_EQ(registry.Add(1, 7).status().code(), absl::StatusCode::kAlreadyExists);
  registry.Remove(*first);
  const auto second = registry.Add(1, 7);
  ASSERT_TRUE(second.ok());
  EXPECT_NE(*first, *second) << "the engine's ids are never used twice";
  EXPECT_EQ(registry.Add(9, 1).status().code(), absl::StatusCode::kUnavailable);
}

TEST(SequenceRegistry, ClosingASessionGivesItsSequencesUp) {
  SequenceRegistry registry;
  registry.Open(1);
  registry.Open(2);
  const auto a = registry.Add(1, 1);
  const auto b = registry.Add(1, 2);
  const auto c = registry.Add(2, 1);
  EXPECT_THAT(registry.Close(1), UnorderedElementsAre(*a, *b));
  EXPECT_FALSE(registry.OwnerOf(*a).has_value());
  EXPECT_TRUE(registry.OwnerOf(*c).has_value());
  EXPECT_TRUE(registry.Close(1).empty());
  EXPECT_EQ(registry.num_sessions(), 1u);
}

TEST(SequenceRegistry, ComparesWhatTheRouterBelievesWithWhatIsHere) {
  SequenceRegistry registry;
  registry.Open(1);
  const auto ghost = registry.Add(1, 1);
  ASSERT_TRUE(registry.Add(1, 2).ok());
  const auto difference = registry.Compare(1, {2, 3, 3});
  EXPECT_THAT(difference.ghosts, ElementsAre(*ghost));
  EXPECT_THAT(difference.lost, ElementsAre(3u));
  EXPECT_TRUE(registry.Compare(5, {1}).ghosts.empty());
}

}  // namespace
}  // namespace choir
