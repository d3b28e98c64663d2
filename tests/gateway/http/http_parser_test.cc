#include "gateway/http/http_parser.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

int StatusOf(const std::string& text, HttpHead* head = nullptr) {
  HttpHead local;
  return ParseHead(text, HttpLimits{}, head ? head : &local).status;
}

TEST(ParseHeadTest, ReadsAnOrdinaryRequest) {
  HttpHead head;
  ASSERT_EQ(
      StatusOf("POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nX-Id:  7 \r\n\r\n",
               &head),
      0);
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/v1/x");
  EXPECT_EQ(head.query, "a=b");
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_EQ(head.Field("x-id"), "7");
  EXPECT_TRUE(head.keep_alive);
  ASSERT_EQ(StatusOf("GET / HTTP/1.0\r\n\r\n", &head), 0);
  EXPECT_FALSE(head.keep_alive);
}

TEST(ParseHeadTest, RefusesWhatSmugglesOrConfuses) {
  const std::string get = "POST / HTTP/1.1\r\nHost: h\r\n";
  EXPECT_EQ(StatusOf(get + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "Content-Length: 1, 1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "Content-Length: -1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "Content-Length: 99999999999999999999\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "X: a\r\n b\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "X: a\n\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "Bad Name: a\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "no colon\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\n\r\n"), 400);  // no Host
  EXPECT_EQ(StatusOf("GET http/1.1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("\x16\x03\x01garbage\r\n\r\n"), 400);
  EXPECT_NE(StatusOf("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), 0);
  EXPECT_EQ(StatusOf(get + "Transfer-Encoding: gzip\r\n\r\n"), 501);
}

TEST(ParseHeadTest, LimitsHoldAtTheirEdge) {
  const auto lines = [](int n) {
    std::string text = "GET / HTTP/1.1\r\nHost: h\r\n";
    for (int i = 1; i < n; ++i) text += "A: b\r\n";
    return text + "\r\n";
  };
  EXPECT_EQ(StatusOf(lines(100)), 0);
  EXPECT_EQ(StatusOf(lines(101)), 431);
  const std::string start = "GET / HTTP/1.1\r\nHost: h\r\nA: ";
  EXPECT_EQ(StatusOf(start + std::string((64 << 10) - start.size() - 4, 'x') + "\r\n\r\n"), 0);
  EXPECT_EQ(StatusOf(start + std::string((64 << 10) - start.size() - 3, 'x') + "\r\n\r\n"), 431);
}

TEST(ChunkedDecoderTest, AnyCutGivesTheSameBody) {
  const std::string wire =
      "5\r\nhello\r\n1;ext=1\r\n \r\n6\r\nworld!\r\n0\r\nTrailer: x\r\n\r\nNEXT";
  for (size_t cut = 0; cut < wire.size() - 4; ++cut) {
    ChunkedDecoder decoder(100);
    std::string bytes = wire.substr(0, cut);
    ASSERT_EQ(decoder.Push(&bytes).status, 0) << cut;
    bytes += wire.substr(cut);
    ASSERT_EQ(decoder.Push(&bytes).status, 0) << cut;
    ASSERT_TRUE(decoder.done()) << cut;
    EXPECT_EQ(decoder.TakeBody(), "hello world!");
    EXPECT_EQ(bytes, "NEXT");
  }
}

TEST(ChunkedDecoderTest, RefusesGarbageAndTooMuch) {
  for (const char* wire : {"zz\r\n", "-1\r\n", "5\r\nhelloXY\r\n", "ffffffffffffffffff\r\n"}) {
    ChunkedDecoder decoder(100);
    std::string bytes = wire;
    EXPECT_EQ(decoder.Push(&bytes).status, 400) << wire;
  }
  ChunkedDecoder decoder(4);
  std::string bytes = "5\r\nhello\r\n0\r\n\r\n";
  EXPECT_EQ(decoder.Push(&bytes).status, 413);
}

}  // namespace
}  // namespace choir
