#include "router/relay/retry_budget.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class RetryBudgetTest : public testing::Test {
 protected:
  int Retries(RetryBudget& budget, int tries) {
    int taken = 0;
    for (int i = 0; i < tries; ++i) taken += budget.TryRetry(now_);
    return taken;
  }
  MonoTime now_ = MonoTime{} + seconds(1000);
};

TEST_F(RetryBudgetTest, TheMinimumNeedsNoRequests) {
  RetryBudget budget({.ratio = 0.5, .min = 3, .window = seconds(10)});
  EXPECT_EQ(Retries(budget, 10), 3);
}

TEST_F(RetryBudgetTest, RequestsEarnTheirShare) {
  RetryBudget budget({.ratio = 0.2, .min = 0, .window = seconds(10)});
  EXPECT_FALSE(budget.TryRetry(now_));
  for (int i = 0; i < 24; ++i) budget.OnRequest(now_);
  EXPECT_EQ(Retries(budget, 10), 4);
}

TEST_F(RetryBudgetTest, BothAreForgottenAfterTheWindow) {
  RetryBudget budget({.ratio = 0.1, .min = 2, .window = seconds(10)});
  for (int i = 0; i < 100; ++i) budget.OnRequest(now_);
  EXPECT_EQ(Retries(budget, 100), 12);
  now_ += seconds(9);
  EXPECT_EQ(Retries(budget, 100), 0);  // all of it is within the window
  now_ += seconds(1);
  EXPECT_EQ(Retries(budget, 100), 2);
}

TEST_F(RetryBudgetTest, AQuietTimeLeavesNoOldCountsBehind) {
  RetryBudget budget({.ratio = 1, .min = 0, .window = seconds(10)});
  budget.OnRequest(now_);
  now_ += std::chrono::hours(24);
  EXPECT_FALSE(budget.TryRetry(now_));
}

TEST_F(RetryBudgetTest, WithNothingNothingIsRunAgain) {
  RetryBudget budget({.ratio = 0, .min = 0, .window = milliseconds(100)});
  budget.OnRequest(now_);
  EXPECT_FALSE(budget.TryRetry(now_));
}

}  // namespace
}  // namespace choir
