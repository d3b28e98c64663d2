#include "gateway/http/chunked_decoder.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

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
  for (const std::string& wire :
       {std::string("zz\r\n"), std::string("-1\r\n"), std::string("+1\r\n"), std::string("0x1\r\n"),
        std::string(" 1\r\n"), std::string("\r\n"), std::string("1\n"), std::string("1\rx\r\n"),
        std::string("5\r\nhelloX"), std::string("5\r\nhello\rX"), std::string("1 x\r\n"),
        std::string("ffffffffffffffff\r\n"), "1;" + std::string(5000, 'e'),
        std::string("0\r\nTrailer\r\n"), std::string("0\r\n: x\r\n"),
        std::string("0\r\nA B: x\r\n"), std::string("0\r\nA: \0\r\n", 9),
        "0\r\nA: " + std::string(70000, 'x')}) {
    ChunkedDecoder decoder(100);
    std::string bytes = wire;
    EXPECT_EQ(decoder.Push(&bytes).status, 400) << wire.substr(0, 40);
  }
  ChunkedDecoder decoder(4);
  std::string bytes = "5\r\nhello\r\n0\r\n\r\n";
  EXPECT_EQ(decoder.Push(&bytes).status, 413);
}

}  // namespace
}  // namespace choir
