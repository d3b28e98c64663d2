#include "router/admission/drain_rate.h"

#include <gtest/gtest.h>

#include "tests/support/sim_clock.h"

namespace choir {
namespace {

using std::chrono::seconds;

TEST(DrainRateTest, KnowsNothingUntilItHasSeenSomething) {
  SimClock clock;
  DrainRate rate;
  rate.SetWaiting(true, clock.Now());
  for (uint64_t i = 0; i < DrainRate::kStartsMin; ++i) {
    EXPECT_FALSE(rate.SecondsFor(10, clock.Now()));
    clock.Advance(seconds(1));
    rate.OnStart(100, clock.Now());
  }
  EXPECT_TRUE(rate.SecondsFor(10, clock.Now()));
}

TEST(DrainRateTest, SaysHowLongAQueueTakesAtTheRateThatWasSeen) {
  SimClock clock;
  DrainRate rate;
  rate.SetWaiting(true, clock.Now());
  for (int i = 0; i < 100; ++i) {
    clock.Advance(seconds(2));
    rate.OnStart(100, clock.Now());
  }
  // 50 tokens a second; and the next start is 2 s away.
  EXPECT_NEAR(*rate.SecondsFor(1000, clock.Now()), 22, 0.5);
  EXPECT_NEAR(*rate.SecondsFor(0, clock.Now()), 2, 0.1);
}

TEST(DrainRateTest, TimeWithoutAQueueDoesNotCount) {
  SimClock clock;
  DrainRate rate;
  for (int i = 0; i < 50; ++i) {
    rate.SetWaiting(true, clock.Now());
    clock.Advance(seconds(1));
    rate.OnStart(100, clock.Now());
    rate.SetWaiting(false, clock.Now());
    clock.Advance(seconds(60));
    rate.OnStart(1'000'000, clock.Now());  // a place was free
  }
  EXPECT_NEAR(*rate.SecondsFor(1000, clock.Now()), 11, 0.5);
}

TEST(DrainRateTest, AQueueThatStandsStillIsSeenAsOne) {
  SimClock clock;
  DrainRate rate;
  rate.SetWaiting(true, clock.Now());
  for (int i = 0; i < 60; ++i) {
    clock.Advance(seconds(1));
    rate.OnStart(100, clock.Now());
  }
  const double before = *rate.SecondsFor(1000, clock.Now());
  clock.Advance(seconds(120));
  EXPECT_GT(*rate.SecondsFor(1000, clock.Now()), before * 5);
}

TEST(DrainRateTest, WhatIsLongAgoIsForgotten) {
  SimClock clock;
  DrainRate rate;
  rate.SetWaiting(true, clock.Now());
  for (int i = 0; i < 10; ++i) {
    clock.Advance(seconds(1));
    rate.OnStart(100, clock.Now());
  }
  rate.SetWaiting(false, clock.Now());
  clock.Advance(DrainRate::kForgetAfter);
  EXPECT_TRUE(rate.SecondsFor(1, clock.Now()));
  clock.Advance(seconds(1));
  EXPECT_FALSE(rate.SecondsFor(1, clock.Now()));
}

TEST(RunTimesTest, ExpectsWhatRequestsTookAndNoMoreThanWasAskedFor) {
  RunTimes times;
  for (int i = 0; i < 3; ++i) times.OnEnd(10, 100);
  EXPECT_FALSE(times.SecondsFor(50));
  times.OnEnd(10, 100);
  EXPECT_NEAR(*times.SecondsFor(50), 5, 1e-9);
  EXPECT_NEAR(*times.SecondsFor(1000), 10, 1e-9);  // most stop at 100
  for (int i = 0; i < 100; ++i) times.OnEnd(1, 100);
  EXPECT_NEAR(*times.SecondsFor(1000), 1, 0.1);
  times.OnEnd(5, 0);  // without a token: says nothing
  EXPECT_NEAR(*times.SecondsFor(1000), 1, 0.1);
}

}  // namespace
}  // namespace choir
