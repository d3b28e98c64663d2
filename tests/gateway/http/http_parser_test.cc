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
  EXPECT_EQ(StatusOf("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), 505);
  EXPECT_EQ(StatusOf("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf("GET / http/1.1\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(get + "Transfer-Encoding: gzip\r\n\r\n"), 501);
}

TEST(ParseHeadTest, TargetsComeInAllTheirForms) {
  HttpHead head;
  const auto path = [&](const std::string& target) {
    const int status = StatusOf("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n", &head);
    return status == 0 ? head.path : std::to_string(status);
  };
  EXPECT_EQ(path("http://other:80/v1/models?x=%41"), "/v1/models");
  EXPECT_EQ(head.query, "x=%41");
  EXPECT_EQ(path("HTTPS://other"), "/");
  EXPECT_EQ(path("http://other?a"), "/");
  EXPECT_EQ(path("/v1/mod%65ls"), "/v1/models");
  EXPECT_EQ(path("/v1/models/org%2Fname"), "/v1/models/org/name");
  EXPECT_EQ(path("/a+b"), "/a+b");
  EXPECT_EQ(path("*"), "*");
  for (const char* bad : {"/%", "/%4", "/%zz", "/%00", "/a%0d%0ab", "http://", "ftp://x/", "x:443"})
    EXPECT_EQ(path(bad), "400") << bad;
}

TEST(ParseHeadTest, RefusesFieldsGivenTwice) {
  for (const char* field : {"Host: b", "Authorization: Bearer b", "X-Request-Id: b"}) {
    const std::string line = std::string(field) + "\r\n";
    EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: h\r\n" + line + line + "\r\n"), 400) << field;
  }
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: h\r\nAccept: a\r\nAccept: b\r\n\r\n"), 0);
}

TEST(ParseHeadTest, ValuesMayHoldObsTextAndNamesMayNot) {
  HttpHead head;
  ASSERT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: h\r\nX-Name: caf\xe9\r\n\r\n", &head), 0);
  EXPECT_EQ(head.Field("x-name"), "caf\xe9");
  EXPECT_EQ(StatusOf("GET / HTTP/1.1\r\nHost: h\r\nX\xe9: a\r\n\r\n"), 400);
}

TEST(HeadScannerTest, WhatCannotBecomeGoodIsRefusedAtOnceHoweverItIsCut) {
  const struct {
    std::string text;
    int status;
  } cases[] = {{"GET / HTTP/1.1\n", 400},
               {"GET / HTTP/1.1\r\nA: b\n", 400},
               {"GET / HTTP/1.1\r\nA: b\r\n c", 400},
               {"GET / HTTP/1.1\r\n\tA: b", 400},
               {"GET / HTTP/1.1\r\nA: b\rc", 400},
               {std::string("GET /\0", 6), 400},
               {"\x16\x03\x01", 400},
               {"GET / HTTP/1.1\r\nA: b\r\nB: c\r\nC: d\r\n", 431},
               {"GET / HTTP/1.1\r\nA: b\r\nB: c\r\n\r\n", 0},
               {"GET / HTTP/1.1\r\nA: b\r\nB: c", 0}};
  HttpLimits limits;
  limits.header_lines_max = 2;
  for (const auto& c : cases) {
    EXPECT_EQ(HeadScanner().Scan(c.text, limits).status, c.status) << c.text;
    HeadScanner scanner;
    int status = 0;
    for (size_t n = 1; n <= c.text.size() && status == 0; ++n) {
      status = scanner.Scan(std::string_view(c.text).substr(0, n), limits).status;
    }
    EXPECT_EQ(status, c.status) << c.text;
  }
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

}  // namespace
}  // namespace choir
