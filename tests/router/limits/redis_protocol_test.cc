#include "router/limits/redis/redis_protocol.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

using Words = std::vector<std::string>;

TEST(RedisProtocolTest, AWordMayHoldAnyBytes) {
  EXPECT_EQ(EncodeCommand({"SET", std::string("a\0\r\n", 4), ""}),
            std::string("*3\r\n$3\r\nSET\r\n$4\r\na\0\r\n\r\n$0\r\n\r\n", 29));
}

TEST(RedisProtocolTest, AnswersComeWholeHoweverTheirBytesDo) {
  const std::string bytes = "+OK\r\n*2\r\n$3\r\na\r\n\r\n$0\r\n\r\n-ERR no\r\n$1\r\nx\r\n*0\r\n";
  for (const size_t step : {size_t{1}, size_t{3}, bytes.size()}) {
    AnswerReader reader;
    std::vector<std::string> got;
    for (size_t at = 0; at < bytes.size(); at += step) {
      reader.Feed(std::string_view(bytes).substr(at, step));
      while (const auto answer = reader.Next()) {
        std::string text = answer->ok() ? "" : MessageOf(answer->status());
        for (const std::string& word : answer->ok() ? **answer : Words()) text += "[" + word + "]";
        got.push_back(text);
      }
    }
    EXPECT_EQ(got, (Words{"[OK]", "[a\r\n][]", "error: ERR no", "[x]", ""})) << step;
  }
}

TEST(RedisProtocolTest, WhatIsNoAnswerIsAnError) {
  for (const char* const bytes : {"HTTP/1.1 400 Bad Request\r\n\r\n", "*1\r\n:1\r\n", "*-7\r\n"}) {
    AnswerReader reader;
    reader.Feed(bytes);
    const auto answer = reader.Next();
    ASSERT_TRUE(answer) << bytes;
    EXPECT_FALSE(answer->ok()) << bytes;
  }
}

}  // namespace
}  // namespace choir
