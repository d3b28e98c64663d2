#include "router/limits/limit_config.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

namespace choir {
namespace {

std::string TenantsError(const std::string& yaml) {
  LimitConfig config;
  return MessageOf(ReadTenants(YAML::Load(yaml), &config));
}
std::string LimitsError(const std::string& yaml) {
  LimitConfig config;
  return MessageOf(ReadLimits(YAML::Load(yaml), &config));
}

TEST(LimitConfigTest, ReadsTheTenantsOfTheContract) {
  LimitConfig config;
  ASSERT_TRUE(ReadTenants(YAML::Load("{acme: {class: bulk, requests_per_second: 5, burst: 5, "
                                     "concurrency: 2, tokens_per_minute: 1000, tokens_per_day: "
                                     "100000}, other: {}, third: }"),
                          &config)
                  .ok());
  ASSERT_EQ(config.tenants.size(), 3u);
  const TenantConfig& acme = config.tenants.at("acme");
  EXPECT_EQ(acme.admission_class, AdmissionClass::kBulk);
  EXPECT_EQ(acme.limits.requests_per_second, 5);
  EXPECT_EQ(acme.limits.burst, 5u);
  EXPECT_EQ(acme.limits.concurrency, 2u);
  EXPECT_EQ(acme.limits.tokens_per_minute, 1000u);
  EXPECT_EQ(acme.limits.tokens_per_day, 100'000u);
  EXPECT_TRUE(config.tenants.at("other").limits.empty());
  EXPECT_EQ(config.tenants.at("third").admission_class, AdmissionClass::kDefault);
}

TEST(LimitConfigTest, ReadsWhatAllShare) {
  LimitConfig config;
  ASSERT_TRUE(ReadLimits(YAML::Load("{global: {requests_per_second: 100}, models: {m: "
                                    "{tokens_per_day: 7}}, default: {concurrency: 3, budget: 2}, "
                                    "prices: {prompt: 0.5, output: 2}}"),
                         &config)
                  .ok());
  EXPECT_EQ(config.global.burst, 100u);
  EXPECT_EQ(config.models.at("m").tokens_per_day, 7u);
  EXPECT_EQ(config.default_tenant.concurrency, 3u);
  EXPECT_EQ(config.prices.output, 2);
  EXPECT_TRUE(CheckLimitConfig(config).ok());
  config.prices = {};
  EXPECT_NE(MessageOf(CheckLimitConfig(config)).find("router.limits.prices"), std::string::npos);
}

TEST(LimitConfigTest, ErrorsNameThePlaceAndTheRemedy) {
  const auto has = [](const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << text << " lacks " << part;
    }
  };
  has(TenantsError("{acme: {tokens_per_minutes: 5}}"), {"acme", "tokens_per_minute'"});
  has(TenantsError("{acme: {clas: bulk}}"), {"acme", "'class'"});
  has(TenantsError("{acme: {class: gold}}"), {"acme", "gold", "interactive"});
  has(TenantsError("{acme: {burst: 5}}"), {"acme", "requests_per_second"});
  has(TenantsError("{acme: {concurrency: 0}}"), {"acme", "concurrency", "1 to 1e+06"});
  has(TenantsError("{acme: {concurrency: [1]}}"), {"acme", "concurrency", "single value"});
  has(TenantsError("{acme: 5}"), {"acme", "mapping"});
  has(TenantsError("[acme]"), {"mapping"});
  has(TenantsError("{'a b': {}}"), {"a b", "letters"});
  has(TenantsError("{acme: {burst: 1, burst: 2}}"), {"acme", "twice"});
  has(TenantsError("acme: {}\nacme: {}"), {"acme", "twice"});
  has(LimitsError("{globl: {}}"), {"globl", "'global'"});
  has(LimitsError("{global: {bursts: 1}}"), {"global", "burst"});
  has(LimitsError("{models: {m: {x: 1}}}"), {"models", "m", "requests_per_second"});
  has(LimitsError("{prices: {prompts: 1}}"), {"prices", "'prompt'"});
  has(LimitsError("{prices: {prompt: -1}}"), {"prices", "prompt", "-1"});
}

}  // namespace
}  // namespace choir
