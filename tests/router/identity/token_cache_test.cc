#include "router/identity/token_cache.h"

#include <gtest/gtest.h>

#include <string>

namespace choir {
namespace {

using std::chrono::seconds;
const WallTime kNow = WallTime(seconds(1'800'000'000));

Sha256Digest Token(int i) { return Sha256Of(std::to_string(i)); }
std::shared_ptr<const Principal> Of(int i) {
  return std::make_shared<const Principal>(Principal{.tenant = std::to_string(i)});
}

TEST(TokenCacheTest, ATokenIsKnownUntilItEndsOrItsTimeIsOver) {
  TokenCache cache(10, seconds(60));
  cache.Put(Token(1), Of(1), kNow, kNow + seconds(10));
  cache.Put(Token(2), Of(2), kNow, kNow + seconds(100));
  EXPECT_EQ(cache.Find(Token(1), kNow)->tenant, "1");
  EXPECT_EQ(cache.Find(Token(3), kNow), nullptr);
  EXPECT_NE(cache.Find(Token(1), kNow + seconds(9)), nullptr);
  EXPECT_EQ(cache.Find(Token(1), kNow + seconds(10)), nullptr);
  EXPECT_NE(cache.Find(Token(2), kNow + seconds(59)), nullptr);
  EXPECT_EQ(cache.Find(Token(2), kNow + seconds(60)), nullptr);
  EXPECT_EQ(cache.size(), 0u) << "what is over is dropped when it is seen";
}

TEST(TokenCacheTest, AClockThatIsSetBackMakesItNoYounger) {
  TokenCache cache(10, seconds(60));
  cache.Put(Token(1), Of(1), kNow, kNow + seconds(100));
  EXPECT_EQ(cache.Find(Token(1), kNow - seconds(1)), nullptr);
}

TEST(TokenCacheTest, ItIsBoundedAndKeepsWhatIsUsed) {
  TokenCache cache(100, seconds(60));
  cache.Put(Token(0), Of(0), kNow, kNow + seconds(60));
  for (int i = 1; i < 10'000; ++i) {
    cache.Put(Token(i), Of(i), kNow, kNow + seconds(60));
    ASSERT_LE(cache.size(), 100u);
    if (i % 20 == 0) {
      ASSERT_NE(cache.Find(Token(0), kNow), nullptr) << i;
    }
  }
  EXPECT_EQ(cache.Find(Token(1), kNow), nullptr);
}

TEST(TokenCacheTest, ZeroKeepsNothing) {
  TokenCache none(0, seconds(60)), brief(10, seconds(0));
  none.Put(Token(1), Of(1), kNow, kNow + seconds(60));
  brief.Put(Token(1), Of(1), kNow, kNow + seconds(60));
  EXPECT_EQ(none.Find(Token(1), kNow), nullptr);
  EXPECT_EQ(brief.Find(Token(1), kNow), nullptr);
}

}  // namespace
}  // namespace choir
