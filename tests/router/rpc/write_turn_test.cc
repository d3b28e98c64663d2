#include "router/rpc/write_turn.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(WriteTurnTest, WhatIsReadyWhileNothingIsWrittenGoesAtOnce) {
  WriteTurn turn;
  EXPECT_TRUE(turn.Take());
  EXPECT_TRUE(turn.writing());
  EXPECT_FALSE(turn.Done()) << "nothing was ready meanwhile: the owner need not be woken";
  EXPECT_TRUE(turn.Take());
}

TEST(WriteTurnTest, WhatBecameReadyDuringAWriteIsDueAtItsEnd) {
  WriteTurn turn;
  EXPECT_TRUE(turn.Take());
  EXPECT_FALSE(turn.Take());
  EXPECT_FALSE(turn.Take());
  EXPECT_TRUE(turn.Done());
  EXPECT_TRUE(turn.Take());
  EXPECT_FALSE(turn.Done()) << "asked for once";
}

}  // namespace
}  // namespace choir
