#include "gateway/cors.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

std::string Value(const HttpFields& fields, const std::string& name) {
  for (const auto& [key, value] : fields) {
    if (key == name) return value;
  }
  return "";
}

HttpHead Preflight(const std::string& origin) {
  HttpHead head;
  head.method = "OPTIONS";
  head.fields = {{"origin", origin},
                 {"access-control-request-method", "POST"},
                 {"access-control-request-headers", "authorization, x-stainless-os"}};
  return head;
}

TEST(CorsTest, WithoutAllowedOriginsNothingIsSaid) {
  EXPECT_TRUE(CorsFields({}, Preflight("https://a")).empty());
  EXPECT_FALSE(PreflightFields({}, Preflight("https://a"), "POST"));
}

TEST(CorsTest, OnlyAllowedOriginsMayRead) {
  const std::vector<std::string> allowed = {"https://a", "https://b:8443"};
  EXPECT_EQ(Value(CorsFields(allowed, Preflight("https://b:8443")), "access-control-allow-origin"),
            "https://b:8443");
  for (const char* origin : {"https://c", "https://a.c", "http://a", "null", ""}) {
    const HttpFields fields = CorsFields(allowed, Preflight(origin));
    EXPECT_EQ(Value(fields, "access-control-allow-origin"), "") << origin;
    EXPECT_EQ(Value(fields, "vary"), "origin") << "caches must know that it depends";
    EXPECT_FALSE(PreflightFields(allowed, Preflight(origin), "POST")) << origin;
  }
  EXPECT_EQ(Value(CorsFields({"*"}, Preflight("https://x")), "access-control-allow-origin"), "*");
}

TEST(CorsTest, APreflightIsToldMethodsAndHeaders) {
  const auto fields = PreflightFields({"https://a"}, Preflight("https://a"), "POST");
  ASSERT_TRUE(fields);
  EXPECT_EQ(Value(*fields, "access-control-allow-methods"), "POST");
  EXPECT_EQ(Value(*fields, "access-control-allow-headers"), "authorization, x-stainless-os");
  HttpHead plain = Preflight("https://a");
  plain.fields.resize(1);
  EXPECT_FALSE(PreflightFields({"https://a"}, plain, "POST")) << "an OPTIONS of another kind";
  HttpHead odd = Preflight("https://a");
  odd.fields[2].second = "x\xe9";
  EXPECT_EQ(Value(*PreflightFields({"https://a"}, odd, "POST"), "access-control-allow-headers"),
            "");
}

TEST(CorsTest, OriginsAreChecked) {
  for (const char* good : {"*", "https://a", "http://localhost:3000", "https://[::1]:1"})
    EXPECT_TRUE(CheckOrigin(good).ok()) << good;
  for (const char* bad :
       {"", "a.example", "https://", "https://a/", "https://a/b", "ftp://a", "**"})
    EXPECT_FALSE(CheckOrigin(bad).ok()) << bad;
}

}  // namespace
}  // namespace choir
