#include "router/content/rule_book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <fstream>
#include <iterator>

#include "router/content/content_filter.h"

namespace choir {
namespace {

using testing::HasSubstr;

std::string Apply(const std::shared_ptr<const ContentRules>& rules, const std::string& text) {
  if (rules == nullptr) return text;
  ContentFilter filter(rules);
  return ApplyRules(text, &filter);
}

TEST(ContentRuleBook, GivesEachTenantItsRules) {
  const auto book = ContentRuleBook::Parse(YAML::Load(R"(
- {name: a, pattern: apple, on: input, with: "<a>"}
- {name: b, pattern: berry, on: output, tenants: [acme]}
- {name: c, pattern: cherry, ignore_case: true, with: ""}
)"));
  ASSERT_TRUE(book.ok()) << book.status();
  EXPECT_EQ(Apply(book->InputFor("acme"), "apple berry Cherry"), "<a> berry ");
  EXPECT_EQ(Apply(book->OutputFor("acme"), "apple berry cherry"), "apple [REDACTED] ");
  EXPECT_EQ(Apply(book->OutputFor("other"), "apple berry cherry"), "apple berry ");
  EXPECT_EQ(ContentRuleBook().InputFor("acme"), nullptr);
}

TEST(ContentRuleBook, TakesTheExampleOfItsPage) {
  std::ifstream file(CHOIR_SOURCE_DIR "/docs/content_rules.md");
  const std::string page((std::istreambuf_iterator<char>(file)), {});
  const size_t begin = page.find("```yaml\n") + 8;
  const YAML::Node example = YAML::Load(page.substr(begin, page.find("```\n", begin) - begin));
  const auto book = ContentRuleBook::Parse(example["router"]["content_rules"]);
  ASSERT_TRUE(book.ok()) << book.status();
  EXPECT_EQ(Apply(book->InputFor("a"), "to a.b@c.org"), "to [MAIL]");
}

TEST(ContentRuleBook, SaysWhatHelpsWhenAPatternIsTooLarge) {
  const auto book =
      ContentRuleBook::Parse(YAML::Load("[{name: a, pattern: '[a-z.]{1,90}@[a-z.]{1,90}'}]"));
  EXPECT_THAT(MessageOf(book.status()), HasSubstr("Lower the bounds"));
}

TEST(ContentRuleBook, NamesRuleAndField) {
  const auto error = [](const char* yaml) {
    return MessageOf(ContentRuleBook::Parse(YAML::Load(yaml)).status());
  };
  EXPECT_THAT(error("{a: b}"), HasSubstr("a list of rules"));
  EXPECT_THAT(error("[{name: a, pattern: x, on: maybe}]"),
              HasSubstr("[0]: on: 'maybe' is none of both, input, output"));
  EXPECT_THAT(error("[{name: a, patern: x}]"), HasSubstr("[0]: unknown field 'patern'"));
  EXPECT_THAT(error("[{name: a}]"), HasSubstr("[0]: pattern: is needed"));
  EXPECT_THAT(error("[{name: a, pattern: x, tenants: acme}]"), HasSubstr("tenants: a list"));
  EXPECT_THAT(error("[{name: a, pattern: 'x+'}]"), HasSubstr("a: pattern: a match may have"));
}

}  // namespace
}  // namespace choir
