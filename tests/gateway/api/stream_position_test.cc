#include "gateway/api/stream_position.h"

#include <gtest/gtest.h>

#include "gateway/api/request.h"

namespace choir {
namespace {

TEST(StreamPosition, IsReadAsItIsWritten) {
  const StreamPosition one = {{.begun = true, .tokens = 37}};
  EXPECT_EQ(PositionId(one), "37");
  EXPECT_EQ(ParsePositionId("37"), one);
  const StreamPosition several = {
      {.begun = true, .tokens = 12}, {}, {.begun = true, .tokens = 9, .finished = true}, {}};
  EXPECT_EQ(PositionId(several), "12..9e.");
  EXPECT_EQ(ParsePositionId("12..9e."), several);
  EXPECT_EQ(ParsePositionId("0"), (StreamPosition{{.begun = true}}));
  EXPECT_EQ(ParsePositionId(PositionId(StreamPosition(kRequestChoicesMax)))->size(),
            kRequestChoicesMax);
}

TEST(StreamPosition, AnythingElseIsNone) {
  for (const char* bad : {"e", "-1", "+1", "1f", "1e.x", "1,2", " 1", "1 ", "0x1", "4294967296",
                          "99999999999999999999", "1e5", "ee"}) {
    EXPECT_FALSE(ParsePositionId(bad)) << bad;
  }
  EXPECT_FALSE(ParsePositionId(PositionId(StreamPosition(kRequestChoicesMax + 1))));
}

TEST(ResumeState, IsReadAsItIsWritten) {
  const ResumeState state = {.chat = true,
                             .include_usage = true,
                             .logprobs = true,
                             .choices = 3,
                             .created = 1'700'000'000,
                             .model = "a \"model\""};
  EXPECT_EQ(ReadResumeState(WriteResumeState(state)), state);
}

TEST(ResumeState, WhatAnotherVersionWroteIsNotRead) {
  for (const char* bad :
       {"", "x", "[]", "{}", R"({"v":2})", R"({"v":1})",
        R"({"v":1,"chat":true,"usage":true,"logprobs":true,"choices":0,"created":1,"model":"m"})",
        R"({"v":1,"chat":1,"usage":true,"logprobs":true,"choices":1,"created":1,"model":"m"})",
        R"({"v":1,"chat":true,"usage":true,"logprobs":true,"choices":1,"created":1,"model":7})"}) {
    EXPECT_FALSE(ReadResumeState(bad)) << bad;
  }
}

}  // namespace
}  // namespace choir
