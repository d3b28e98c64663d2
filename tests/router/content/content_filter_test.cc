#include "router/content/content_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace choir {
namespace {

using testing::HasSubstr;

std::shared_ptr<const ContentRules> Rules(std::vector<ContentRule> rules) {
  auto made = ContentRules::Compile(std::move(rules));
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

std::string Whole(const std::shared_ptr<const ContentRules>& rules, const std::string& text) {
  ContentFilter filter(rules);
  return ApplyRules(text, &filter);
}

const std::vector<ContentRule>& Some() {
  static const std::vector<ContentRule> kRules = {
      {.name = "mail", .pattern = R"([a-z0-9.]{1,20}@[a-z0-9.]{1,20}\.[a-z]{2,5})"},
      {.name = "card", .pattern = R"(\b[0-9]{4}(?:[ -]?[0-9]{4}){3}\b)", .replacement = "<card>"},
      {.name = "digits", .pattern = "[0-9]{3,10}", .replacement = "#"},
      {.name = "name", .pattern = "müller|東京", .replacement = "X", .ignore_case = true},
  };
  return kRules;
}

TEST(ContentRules, ReplacesMatches) {
  const auto rules = Rules(Some());
  EXPECT_EQ(Whole(rules, "write to a.b@c.de now"), "write to [REDACTED] now");
  EXPECT_EQ(Whole(rules, "card 1234-5678-1234-5678."), "card <card>.");
  EXPECT_EQ(Whole(rules, "12 123 1234567890123"), "12 # #");
  EXPECT_EQ(Whole(rules, "MÜLLER aus 東京!"), "X aus X!");
  EXPECT_EQ(Whole(rules, ""), "");
}

TEST(ContentRules, TakesTheLongestAndThenTheFirstRule) {
  const auto rules = Rules({{.name = "a", .pattern = "ab", .replacement = "1"},
                            {.name = "b", .pattern = "abc", .replacement = "2"},
                            {.name = "c", .pattern = "abc", .replacement = "3"}});
  EXPECT_EQ(Whole(rules, "abcab"), "21");
  EXPECT_EQ(Whole(Rules({{.name = "x", .pattern = "[0-9]{3}"}}), "a12345b"), "a[REDACTED]b");
}

TEST(ContentRules, RefuseEndsTheTextBeforeTheMatch) {
  const auto rules =
      Rules({{.name = "secret", .pattern = "project x", .action = ContentAction::kRefuse}});
  ContentFilter filter(rules);
  EXPECT_EQ(ApplyRules("tell me of project x and more", &filter), "tell me of ");
  EXPECT_EQ(filter.refused_by(), "secret");
  EXPECT_EQ(filter.Push("more"), "");
  EXPECT_EQ(filter.hits(), std::vector<uint32_t>{1});
}

TEST(ContentRules, RefuseWinsInsideOfWhatIsReplaced) {
  const auto rules = Rules({{.name = "long", .pattern = "a bomb"},
                            {.name = "no", .pattern = "bomb!", .action = ContentAction::kRefuse}});
  ContentFilter filter(rules);
  EXPECT_EQ(ApplyRules("build a bomb! now", &filter), "build [REDACTED]");
  EXPECT_EQ(filter.refused_by(), "no");
}

TEST(ContentRules, NamesWhatIsWrong) {
  const auto error = [](ContentRule rule) {
    return MessageOf(ContentRules::Compile({std::move(rule)}).status());
  };
  EXPECT_THAT(error({.name = "a b", .pattern = "x"}), HasSubstr("'a b': name: "));
  EXPECT_THAT(error({.name = "r", .pattern = "("}), HasSubstr("r: pattern: "));
  EXPECT_THAT(error({.name = "r", .pattern = "a*"}), HasSubstr("matches the empty text"));
  EXPECT_THAT(error({.name = "r", .pattern = "ab+"}), HasSubstr("any number of bytes"));
  EXPECT_THAT(error({.name = "r", .pattern = "[0-9]{5000}"}), HasSubstr("at most 4096"));
  EXPECT_THAT(error({.name = "r", .pattern = R"((a)\1)"}), HasSubstr("r: pattern: "));
  const auto twice =
      ContentRules::Compile({{.name = "r", .pattern = "a"}, {.name = "r", .pattern = "b"}});
  EXPECT_THAT(MessageOf(twice.status()), HasSubstr("given twice"));
}

TEST(ContentFilter, HoldsBackNoMoreThanAMatchMayHave) {
  const auto rules = Rules({{.name = "r", .pattern = "[0-9]{1,16}"}});
  ContentFilter filter(rules);
  std::string given, out;
  for (int i = 0; i < 200; ++i) {
    given += "ab ";
    out += filter.Push("ab ");
    EXPECT_LE(given.size() - out.size(), rules->longest() + 8);
  }
  EXPECT_EQ(out + filter.Flush(), given);
}

// However the text is cut, the outcome is that of the whole text.
TEST(ContentFilter, DoesNotDependOnHowTheTextIsCut) {
  const auto rules = Rules(Some());
  const std::vector<std::string> parts = {"1",  "23", "4567", "-",           " ", "a.b",
                                          "@",  "c",  ".de",  "Ü",           "m", "üller",
                                          "東", "京", "x",    "12345678901", "\n"};
  std::mt19937_64 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> pieces;
    std::string text;
    const size_t count = random() % 60;
    for (size_t i = 0; i < count; ++i) {
      pieces.push_back(parts[random() % parts.size()]);
      text += pieces.back();
    }
    ContentFilter filter(rules), whole(rules);
    std::string out;
    std::string pending;
    for (const std::string& piece : pieces) {
      pending += piece;
      if (random() % 2 == 0) out += filter.Push(std::exchange(pending, ""));
    }
    out += filter.Push(pending);
    out += filter.Flush();
    ASSERT_EQ(out, ApplyRules(text, &whole)) << text;
    ASSERT_EQ(filter.hits(), whole.hits());
  }
}

}  // namespace
}  // namespace choir
