#include "gateway/rpc/known_keys.h"

#include <gtest/gtest.h>

#include <string>

namespace choir {
namespace {

class FixedClock final : public Clock {
 public:
  MonoTime Now() const override { return now; }
  WallTime Wall() const override { return {}; }
  MonoTime now{std::chrono::seconds(100)};
};

TEST(KnownKeysTest, AKeyIsKnownForItsTimeAndNoLonger) {
  FixedClock clock;
  KnownKeys keys(&clock, std::chrono::seconds(1), 8);
  EXPECT_FALSE(keys.Knows("ck-a"));
  keys.Learn("ck-a");
  EXPECT_TRUE(keys.Knows("ck-a"));
  EXPECT_FALSE(keys.Knows("ck-b"));
  clock.now += std::chrono::milliseconds(999);
  EXPECT_TRUE(keys.Knows("ck-a"));
  clock.now += std::chrono::milliseconds(1);
  EXPECT_FALSE(keys.Knows("ck-a"));
}

TEST(KnownKeysTest, ARefusedKeyIsForgotten) {
  FixedClock clock;
  KnownKeys keys(&clock, std::chrono::seconds(1), 8);
  keys.Learn("ck-a");
  keys.Learn("ck-b");
  keys.Forget("ck-a");
  EXPECT_FALSE(keys.Knows("ck-a"));
  EXPECT_TRUE(keys.Knows("ck-b"));
}

TEST(KnownKeysTest, NeverHoldsMoreThanItsBound) {
  FixedClock clock;
  KnownKeys keys(&clock, std::chrono::seconds(1), 2);
  for (const char* key : {"ck-a", "ck-b", "ck-c"}) keys.Learn(key);
  EXPECT_FALSE(keys.Knows("ck-a"));
  EXPECT_TRUE(keys.Knows("ck-c"));
}

TEST(KnownKeysTest, WithoutATimeNoKeyIsKnown) {
  FixedClock clock;
  KnownKeys keys(&clock, Duration(0), 2);
  keys.Learn("ck-a");
  EXPECT_FALSE(keys.Knows("ck-a"));
}

}  // namespace
}  // namespace choir
