#include "router/text/unicode.h"

#include <gtest/gtest.h>

namespace choir::unicode {
namespace {

TEST(Unicode, ReplacesEachMaximalSubpartOnce) {
  EXPECT_EQ(Sanitize("a\xE4\xBD z"), "a\xEF\xBF\xBD z");                        // cut character
  EXPECT_EQ(Sanitize("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");                  // overlong
  EXPECT_EQ(Sanitize("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // surrogate
  EXPECT_EQ(Sanitize("\xF0\x9F\x98"), "\xEF\xBF\xBD");
  EXPECT_EQ(Sanitize("\xF4\x90\x80\x80").size(), 12u);  // above U+10FFFF
  EXPECT_EQ(Sanitize("h\xC3\xA9"), "h\xC3\xA9");
}

TEST(Unicode, FindsTheCharacterThatIsStillComing) {
  EXPECT_EQ(IncompleteTail("a\xF0\x9F\x98"), 3u);
  EXPECT_EQ(IncompleteTail("a\xE4\xBD"), 2u);
  EXPECT_EQ(IncompleteTail("\xC3"), 1u);
  EXPECT_EQ(IncompleteTail("\xC3\xA9"), 0u);
  EXPECT_EQ(IncompleteTail("\xE0\x80"), 0u);  // can never become one
  EXPECT_EQ(IncompleteTail("\xFF"), 0u);
  EXPECT_EQ(IncompleteTail(""), 0u);
}

TEST(Unicode, HasTwentyFiveWhitespaceCharacters) {
  int count = 0;
  for (char32_t c = 0; c < 0x110000; ++c) count += IsWhitespace(c);
  EXPECT_EQ(count, 25);
  EXPECT_FALSE(IsWhitespace(0x180E));
}

TEST(Unicode, MapsEveryByteToItsCharacterAndBack) {
  std::string bytes;
  for (int b = 0; b < 256; ++b) bytes.push_back(static_cast<char>(b));
  std::string chars;
  AppendByteChars(bytes, &chars);
  std::string back;
  ASSERT_TRUE(AppendCharBytes(chars, &back));
  EXPECT_EQ(back, bytes);
  EXPECT_FALSE(AppendCharBytes("\xE4\xBD\xA0", &back));
  EXPECT_EQ(back, bytes);
}

}  // namespace
}  // namespace choir::unicode
