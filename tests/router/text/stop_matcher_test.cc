#include "router/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace choir {
namespace {

struct Expected {
  std::string text;
  std::string matched;
};

// What the header promises, on the whole text: the first end of any stop; of several there, the
// longest.
Expected Search(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::string best;
    for (const std::string& stop : stops) {
      if (!stop.empty() && text.substr(0, end).ends_with(stop) && stop.size() > best.size()) {
        best = stop;
      }
    }
    if (!best.empty()) return {text.substr(0, end - best.size()), best};
  }
  return {text, ""};
}

TEST(StopMatcher, HoldsBackTextThatMayBecomeAStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("the E").text, "the ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("ough").text, "ENough");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, EndsTheTextBeforeAStopThatIsCutInPieces) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Push("a\n").text, "a");
  const auto result = matcher.Push("\nb");
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.matched, "\n\n");
}

TEST(StopMatcher, StaysStoppedAfterAMatch) {
  StopMatcher matcher({"x"});
  EXPECT_TRUE(matcher.Push("ax").stopped);
  const auto again = matcher.Push("more");
  EXPECT_TRUE(again.stopped);
  EXPECT_EQ(again.text, "");
  EXPECT_EQ(again.matched, "x");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, TakesTheLongestOfTwoStopsThatEndTogether) {
  StopMatcher matcher({"b", "ab"});
  const auto result = matcher.Push("xab");
  EXPECT_EQ(result.text, "x");
  EXPECT_EQ(result.matched, "ab");
}

TEST(StopMatcher, GivesTheHeldTextWhenTheStreamEndsOtherwise) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.Push("do not sto").text, "do not ");
  EXPECT_EQ(matcher.Flush(), "sto");
}

TEST(StopMatcher, IgnoresEmptyStops) {
  StopMatcher matcher({"", "z"});
  const auto result = matcher.Push("abc");
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(result.text, "abc");
}

TEST(StopMatcher, WithoutStopsLetsAllThrough) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("abc").text, "abc");
}

TEST(StopMatcher, CanBeMovedAfterAMatch) {
  StopMatcher matcher({"x", "longer than any small string buffer"});
  matcher.Push("x");
  StopMatcher moved = std::move(matcher);
  EXPECT_EQ(moved.Push("").matched, "x");
}

TEST(StopMatcher, AgreesWithASearchOfTheWholeTextForRandomCuts) {
  std::mt19937 random(7);
  const auto string_of = [&](size_t length) {
    std::string s;
    for (size_t i = 0; i < length; ++i) s.push_back("ab"[random() % 2]);
    return s;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) stops.push_back(string_of(1 + random() % 6));
    const std::string text = string_of(random() % 40);
    const Expected expected = Search(text, stops);
    StopMatcher matcher(stops);
    std::string got;
    std::string matched;
    for (size_t pos = 0; pos < text.size() && matched.empty();) {
      const size_t length = 1 + random() % 5;
      const auto result = matcher.Push(std::string_view(text).substr(pos, length));
      got += result.text;
      ASSERT_TRUE(expected.text.starts_with(got)) << text;
      if (result.stopped) matched = result.matched;
      pos += length;
    }
    got += matcher.Flush();
    ASSERT_EQ(got, expected.text) << text;
    ASSERT_EQ(matched, expected.matched) << text;
  }
}

}  // namespace
}  // namespace choir
