#include "router/identity/certificate_rules.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

namespace choir {
namespace {

std::vector<CertificateRule> Read(const std::string& yaml) {
  auto rules = ReadCertificateRules(YAML::Load(yaml));
  EXPECT_TRUE(rules.ok()) << rules.status();
  return rules.ok() ? *rules : std::vector<CertificateRule>();
}

std::string TenantOf(const std::vector<CertificateRule>& rules,
                     const PeerCertificate& certificate) {
  const CertificateRule* rule = FindRule(rules, certificate);
  return rule == nullptr ? "nobody" : rule->tenant;
}

TEST(CertificateRulesTest, ASpiffeIdIsTakenAsItIsOrByWhatItIsBelow) {
  const auto rules = Read(R"(
- {spiffe: "spiffe://corp/ns/ai/sa/app", tenant: app, class: bulk, models: [m]}
- {spiffe: "spiffe://corp/ns/ai/*", tenant: ai}
)");
  EXPECT_EQ(TenantOf(rules, {.spiffe = "spiffe://corp/ns/ai/sa/app"}), "app");
  EXPECT_EQ(TenantOf(rules, {.spiffe = "spiffe://corp/ns/ai/sa/app2"}), "ai");
  for (const char* id : {"spiffe://corp/ns/ai", "spiffe://corp/ns/ai/", "spiffe://corp/ns/ai2/x",
                         "spiffe://CORP/ns/ai/sa/app", "spiffe://evil/ns/ai/sa/app", ""}) {
    EXPECT_EQ(TenantOf(rules, {.spiffe = id}), "nobody") << id;
  }
  EXPECT_EQ(RightsText(*rules[0].rights), "class=bulk models=m");
}

TEST(CertificateRulesTest, ADnsNameCountsOnlyWithoutASpiffeId) {
  const auto rules = Read("- {dns: App.Example.org, tenant: app}");
  EXPECT_EQ(TenantOf(rules, {.dns = {"other.example.org", "app.example.ORG"}}), "app");
  EXPECT_EQ(TenantOf(rules, {.dns = {"sub.app.example.org", "*.example.org"}}), "nobody");
  EXPECT_EQ(TenantOf(rules, {.spiffe = "spiffe://choir/worker", .dns = {"app.example.org"}}),
            "nobody");
  EXPECT_EQ(TenantOf(rules, {}), "nobody");
}

TEST(CertificateRulesTest, WhatIsWrongIsNamed) {
  const auto error = [](const std::string& yaml) {
    const auto rules = ReadCertificateRules(YAML::Load(yaml));
    return rules.ok() ? std::string("no error") : MessageOf(rules.status());
  };
  EXPECT_NE(error("{}").find("list"), std::string::npos);
  EXPECT_NE(error("[5]").find("certificates[0]: a map"), std::string::npos);
  EXPECT_NE(error("[{tenant: a}]").find("either spiffe or dns"), std::string::npos);
  EXPECT_NE(error("[{dns: a, spiffe: 'spiffe://a/b', tenant: a}]").find("either"),
            std::string::npos);
  EXPECT_NE(error("[{dns: a}]").find("tenant is needed"), std::string::npos);
  EXPECT_NE(error("[{dns: a, tenant: 'a b'}]").find("a b"), std::string::npos);
  EXPECT_NE(error("[{dns: a, tenant: a, user: b}]").find("known are spiffe"), std::string::npos);
  EXPECT_NE(error("[{dns: a, tenant: a, class: fast}]").find("class"), std::string::npos);
  EXPECT_NE(error("[{dns: [a], tenant: a}]").find("dns: a text"), std::string::npos);
  for (const char* id : {"spiffe://", "spiffe://a", "spiffe://a/", "spiffe:///b", "http://a/b",
                         "spiffe://a/b*", "spiffe://a/*/c", "spiffe://*/b", ""}) {
    EXPECT_NE(error("[{tenant: a, spiffe: '" + std::string(id) + "'}]"), "no error") << id;
  }
}

}  // namespace
}  // namespace choir
