#include "common/base/bearer.h"

#include <gtest/gtest.h>

#include <string>

namespace choir {
namespace {

TEST(BearerTest, TheKeyIsWhatFollowsTheScheme) {
  EXPECT_EQ(BearerIn("Bearer ck-a_b-C"), "ck-a_b-C");
  EXPECT_EQ(BearerIn("bearer x"), "x");
  EXPECT_EQ(BearerIn("BEARER   x"), "x");
}

TEST(BearerTest, AllElseIsNoKey) {
  using namespace std::string_literals;
  for (const std::string& value :
       {""s, "Bearer"s, "Bearer "s, "Bearer  "s, "ck-a"s, "Basic ck-a"s, " Bearer x"s, "Bearerx y"s,
        "Bearer\tx"s, "Bearer x "s, "Bearer x, Bearer y"s, "Bearer x,Basic y z"s, "Bearer x\ty"s,
        "Bearer x\0"s, "Bearer \0x"s, "Bearer x\x7f"s, "Bearer \xc3\xa9"s,
        "Bearer x\r\nHost: y"s}) {
    EXPECT_EQ(BearerIn(value), "") << value;
  }
}

}  // namespace
}  // namespace choir
