#include "router/core/used_names.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace choir {
namespace {

std::string Name(int i) { return "client-" + std::to_string(i); }

TEST(UsedNames, TheLastOnesAreNeverMissed) {
  constexpr int kMax = 1000;
  UsedNames names(kMax);
  EXPECT_FALSE(names.Has(""));
  for (int i = 0; i < 10 * kMax; ++i) {
    names.Add(Name(i));
    EXPECT_TRUE(names.Has(Name(i)));
    EXPECT_TRUE(names.Has(Name(std::max(0, i - kMax + 1)))) << i;
  }
  EXPECT_FALSE(names.Has(Name(0)));  // ten generations ago
}

TEST(UsedNames, FewOthersAreTakenForKnown) {
  constexpr int kMax = 10'000;
  UsedNames names(kMax);
  for (int i = 0; i < 2 * kMax; ++i) names.Add(Name(i));
  int wrong = 0;
  for (int i = 2 * kMax; i < 12 * kMax; ++i) wrong += names.Has(Name(i));
  EXPECT_LT(wrong, 200) << "of 100,000";
  EXPECT_GT(wrong, 0);  // or it takes more memory than it says
}

TEST(UsedNames, ANameThatComesAgainAndAgainTakesNoRoom) {
  UsedNames names(2);
  names.Add("a");
  for (int i = 0; i < 100; ++i) names.Add("b");
  EXPECT_TRUE(names.Has("a"));
}

}  // namespace
}  // namespace choir
