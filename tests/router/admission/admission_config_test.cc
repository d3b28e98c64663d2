#include "router/admission/admission_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

namespace choir {
namespace {

using testing::HasSubstr;

std::string ErrorOf(const std::string& yaml) {
  AdmissionConfig config;
  const Status status = ReadAdmission(YAML::Load(yaml), &config);
  return status.ok() ? "" : MessageOf(status);
}

TEST(AdmissionConfigTest, WhatIsNotSaidHasItsDefault) {
  AdmissionConfig config;
  ASSERT_TRUE(ReadAdmission(YAML::Load("{}"), &config).ok());
  EXPECT_EQ(config, AdmissionConfig());
  ASSERT_TRUE(ReadAdmission(YAML::Load("bulk: {queue: 7}"), &config).ok());
  EXPECT_EQ(config.of(AdmissionClass::kBulk).queue, 7u);
  EXPECT_EQ(config.of(AdmissionClass::kBulk).ageing,
            AdmissionConfig().of(AdmissionClass::kBulk).ageing);
}

TEST(AdmissionConfigTest, EveryQueueIsBoundedUnlessToldMore) {
  for (const AdmissionClass c : kAdmissionClasses) {
    EXPECT_LE(AdmissionConfig().of(c).queue, 10'000u) << AdmissionClassName(c);
    EXPECT_LE(AdmissionConfig().of(c).queue_timeout, std::chrono::hours(1));
  }
}

TEST(AdmissionConfigTest, ReadsAllOfAClass) {
  AdmissionConfig config;
  const auto yaml = YAML::Load(
      "{ahead: 0, interactive: {floor: 3, ceiling: 50%, queue: 0, queue_timeout: 500ms, ageing: "
      "2m}}");
  ASSERT_TRUE(ReadAdmission(yaml, &config).ok());
  EXPECT_EQ(config.ahead, 0u);
  const ClassRules& rules = config.of(AdmissionClass::kInteractive);
  EXPECT_EQ(rules.floor.Of(1000), 3u);
  EXPECT_EQ(rules.ceiling.Of(1001), 500u);
  EXPECT_EQ(rules.queue, 0u);
  EXPECT_EQ(rules.queue_timeout, std::chrono::milliseconds(500));
  EXPECT_EQ(rules.ageing, std::chrono::minutes(2));
}

TEST(AdmissionConfigTest, AShareOfEverythingIsEverything) {
  for (uint64_t total : {0, 1, 3, 7, 1'000'000}) EXPECT_EQ(ParseAmount("100%")->Of(total), total);
  EXPECT_EQ(ParseAmount("5%")->Of(19), 0u);
  EXPECT_EQ(ParseAmount("5%")->Of(20), 1u);
  EXPECT_EQ(ParseAmount("12.5%")->Text(), "12.5%");
}

TEST(AdmissionConfigTest, EveryLimitHoldsAtItsEdge) {
  for (const char* good :
       {"ahead: 1024", "bulk: {queue: 1000000}", "bulk: {queue_timeout: 24h}",
        "bulk: {queue_timeout: 1ms}", "bulk: {ageing: 24h}", "bulk: {ceiling: 1000000}",
        "bulk: {floor: 0%}", "{interactive: {floor: 50%}, default: {floor: 50%}}", "bulk: ~"}) {
    EXPECT_EQ(ErrorOf(good), "") << good;
  }
  for (const char* bad :
       {"ahead: 1025", "ahead: -1", "bulk: {queue: 1000001}", "bulk: {queue: 1.5}",
        "bulk: {queue_timeout: 25h}", "bulk: {queue_timeout: 0s}", "bulk: {ageing: soon}",
        "bulk: {ceiling: 1000001}", "bulk: {ceiling: 101%}", "bulk: {ceiling: 0}",
        "bulk: {floor: -1%}", "bulk: {floor: 1.5}", "bulk: {floor: nan}", "bulk: {floor: ''}",
        "bulk: {floor: '%'}", "bulk: [1]", "bulk: {queue: [1]}", "[]"}) {
    EXPECT_NE(ErrorOf(bad), "") << bad;
  }
}

TEST(AdmissionConfigTest, ErrorsNamePlaceAndRemedy) {
  EXPECT_THAT(ErrorOf("bluk: {queue: 1}"), HasSubstr("bluk: unknown key, did you mean 'bulk'?"));
  EXPECT_THAT(ErrorOf("bulk: {cieling: 1}"),
              HasSubstr("bulk: cieling: unknown key, did you mean 'ceiling'?"));
  EXPECT_THAT(ErrorOf("bulk: {floor: 60%, ceiling: 50%}"),
              HasSubstr("floor: 60% is above the ceiling, 50%"));
  EXPECT_THAT(ErrorOf("{interactive: {floor: 60%}, default: {floor: 50%}}"),
              HasSubstr("together are 110%"));
  EXPECT_THAT(ErrorOf("bulk: {queue: -1}"),
              HasSubstr("bulk: queue: '-1' is not an integer from 0 to 1000000"));
  EXPECT_THAT(ErrorOf("{bulk: {}, bulk: {}}"), HasSubstr("given twice"));
}

}  // namespace
}  // namespace choir
