#include "router/membership/circuit_breaker.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class CircuitBreakerTest : public testing::Test {
 protected:
  // So many failures, each an event of its own.
  void Fail(int times) {
    for (int i = 0; i < times; ++i) {
      now_ += CircuitBreaker::kOneEvent;
      breaker_.OnFailure(now_);
    }
  }
  MonoTime now_ = MonoTime{} + seconds(1000);
  CircuitBreaker breaker_{{.failures = 3, .window = seconds(30), .open_for = seconds(5)}};
};

TEST_F(CircuitBreakerTest, OpensAtTheLastFailureThatIsOneTooMany) {
  Fail(2);
  EXPECT_EQ(breaker_.state(), BreakerState::kClosed);
  EXPECT_TRUE(breaker_.TakesWork());
  EXPECT_EQ(breaker_.NextTimer(), MonoTime::max());
  Fail(1);
  EXPECT_EQ(breaker_.state(), BreakerState::kOpen);
  EXPECT_FALSE(breaker_.TakesWork());
  EXPECT_EQ(breaker_.NextTimer(), now_ + seconds(5));
}

TEST_F(CircuitBreakerTest, WhatBefallsAtOnceIsOneFailure) {
  for (int i = 0; i < 100; ++i) breaker_.OnFailure(now_ + milliseconds(i));
  EXPECT_EQ(breaker_.state(), BreakerState::kClosed);
}

TEST_F(CircuitBreakerTest, OldFailuresDoNotCount) {
  Fail(2);
  now_ += seconds(28);  // with the second of Fail: the first of the two is out of the window
  Fail(1);
  EXPECT_EQ(breaker_.state(), BreakerState::kClosed);
  Fail(1);
  EXPECT_EQ(breaker_.state(), BreakerState::kClosed);  // the second is out, too
  Fail(1);
  EXPECT_EQ(breaker_.state(), BreakerState::kOpen);
}

TEST_F(CircuitBreakerTest, HalfOpenItTakesOneSequenceWhoseFirstTokenClosesIt) {
  Fail(3);
  EXPECT_FALSE(breaker_.OnTime(now_ + seconds(5) - milliseconds(1)));
  EXPECT_TRUE(breaker_.OnTime(now_ + seconds(5)));
  EXPECT_EQ(breaker_.state(), BreakerState::kHalfOpen);
  EXPECT_TRUE(breaker_.TakesWork());
  breaker_.OnPlaced();
  EXPECT_FALSE(breaker_.TakesWork());
  breaker_.OnFirstToken();
  EXPECT_EQ(breaker_.state(), BreakerState::kClosed);
  Fail(2);  // all over again
  EXPECT_EQ(breaker_.state(), BreakerState::kClosed);
}

TEST_F(CircuitBreakerTest, AProbeThatFailsOpensItAgain) {
  Fail(3);
  ASSERT_TRUE(breaker_.OnTime(now_ + seconds(5)));
  breaker_.OnPlaced();
  breaker_.OnFailure(now_ + seconds(6));
  EXPECT_EQ(breaker_.state(), BreakerState::kOpen);
  EXPECT_EQ(breaker_.NextTimer(), now_ + seconds(11));
}

TEST_F(CircuitBreakerTest, AProbeThatSaysNothingMakesRoomForAnother) {
  Fail(3);
  ASSERT_TRUE(breaker_.OnTime(now_ + seconds(5)));
  breaker_.OnPlaced();
  breaker_.OnGone();
  EXPECT_TRUE(breaker_.TakesWork());
  EXPECT_EQ(breaker_.state(), BreakerState::kHalfOpen);
}

TEST_F(CircuitBreakerTest, AStallOpensItAtOnce) {
  breaker_.Open(now_);
  EXPECT_FALSE(breaker_.TakesWork());
}

TEST_F(CircuitBreakerTest, TokensOfOlderWorkDoNotCloseAnOpenOne) {
  Fail(3);
  breaker_.OnFirstToken();
  EXPECT_EQ(breaker_.state(), BreakerState::kOpen);
}

}  // namespace
}  // namespace choir
