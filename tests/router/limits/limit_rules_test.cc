#include "router/limits/limit_rules.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(LimitRulesTest, TakesEveryRuleAndGivesItBack) {
  const std::vector<std::pair<std::string, std::string>> given = {
      {"requests_per_second", "0.5"}, {"burst", "7"},
      {"concurrency", "2"},           {"tokens_per_minute", "1000"},
      {"tokens_per_day", "100000"},   {"budget", "2.75"}};
  LimitRules rules;
  for (const auto& [name, text] : given) {
    EXPECT_TRUE(IsLimitRule(name));
    EXPECT_TRUE(SetLimitRule(name, text, &rules).ok()) << name;
  }
  EXPECT_TRUE(CompleteLimitRules(&rules).ok());
  EXPECT_EQ(FormatLimitRules(rules), given);
  EXPECT_EQ(LimitRuleNames().size(), given.size());
}

TEST(LimitRulesTest, NothingGivenIsNoLimit) {
  LimitRules rules;
  EXPECT_TRUE(CompleteLimitRules(&rules).ok());
  EXPECT_TRUE(rules.empty());
}

TEST(LimitRulesTest, AnAbsentBurstIsASecondsWorth) {
  for (const auto& [rate, burst] : {std::pair{"5", 5u}, {"2.5", 3u}, {"0.1", 1u}}) {
    LimitRules rules;
    EXPECT_TRUE(SetLimitRule("requests_per_second", rate, &rules).ok());
    EXPECT_TRUE(CompleteLimitRules(&rules).ok());
    EXPECT_EQ(rules.burst, burst) << rate;
  }
}

TEST(LimitRulesTest, ABurstOfNoRateIsAnError) {
  LimitRules rules;
  EXPECT_TRUE(SetLimitRule("burst", "5", &rules).ok());
  EXPECT_FALSE(CompleteLimitRules(&rules).ok());
}

TEST(LimitRulesTest, AnUnknownNameComesWithTheNearest) {
  LimitRules rules;
  const std::string message = MessageOf(SetLimitRule("token_per_minute", "5", &rules));
  EXPECT_NE(message.find("tokens_per_minute"), std::string::npos) << message;
}

TEST(LimitRulesTest, BadValuesNameTheRange) {
  for (const auto& [name, text] : {std::pair{"burst", "0"},
                                   {"burst", "1.5"},
                                   {"burst", "-1"},
                                   {"burst", ""},
                                   {"burst", "1000001"},
                                   {"concurrency", "two"},
                                   {"concurrency", "0"},
                                   {"requests_per_second", "0"},
                                   {"requests_per_second", "nan"},
                                   {"requests_per_second", "inf"},
                                   {"requests_per_second", "-1"},
                                   {"tokens_per_minute", "0"},
                                   {"tokens_per_day", "99999999999999999999999"},
                                   {"budget", "-0.1"},
                                   {"budget", "1e10"}}) {
    LimitRules rules;
    const std::string message = MessageOf(SetLimitRule(name, text, &rules));
    EXPECT_EQ(message.find(name), 0u) << name << " " << text << ": " << message;
    EXPECT_NE(message.find(" to "), std::string::npos) << message;
    EXPECT_TRUE(rules.empty()) << name << " " << text;
  }
}

}  // namespace
}  // namespace choir
