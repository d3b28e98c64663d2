#include "gateway/request_headers.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

HttpHead Head(HttpFields fields) {
  HttpHead head;
  head.fields = std::move(fields);
  return head;
}

std::vector<IpNetwork> Networks(const std::vector<std::string>& texts) {
  std::vector<IpNetwork> networks;
  for (const std::string& text : texts) networks.push_back(*IpNetwork::Parse(text));
  return networks;
}

TEST(RequestHeadersTest, NobodysForwardedForIsBelievedUntilProxiesAreNamed) {
  const HttpHead head = Head({{"x-forwarded-for", "10.0.0.1"}});
  EXPECT_EQ(ClientOf(head, "192.0.2.1", {}), "192.0.2.1");
  EXPECT_EQ(ClientOf(head, "192.0.2.1", Networks({"10.0.0.0/8"})), "192.0.2.1");
}

TEST(RequestHeadersTest, ATrustedProxySaysWhoTheClientIs) {
  const auto proxies = Networks({"10.0.0.0/8", "::1"});
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "192.0.2.7"}}), "10.0.0.1", proxies), "192.0.2.7");
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "[2001:db8::1]:99"}}), "::1", proxies),
            "2001:db8::1");
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "192.0.2.7:443"}}), "::ffff:10.0.0.1", proxies),
            "192.0.2.7");
  EXPECT_EQ(ClientOf(Head({}), "10.0.0.1", proxies), "10.0.0.1");
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", ""}}), "10.0.0.1", proxies), "10.0.0.1");
}

TEST(RequestHeadersTest, WhatTheClientWroteItselfIsNotLookedAt) {
  const auto proxies = Networks({"10.0.0.0/8"});
  // The client pretends to be 10.9.9.9 and 192.0.2.1; the proxies saw 203.0.113.5.
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "10.9.9.9, 192.0.2.1, 203.0.113.5, 10.0.0.2"}}),
                     "10.0.0.1", proxies),
            "203.0.113.5");
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "10.9.9.9"},
                           {"accept", "*/*"},
                           {"x-forwarded-for", "203.0.113.5"},
                           {"x-forwarded-for", "10.0.0.2"}}),
                     "10.0.0.1", proxies),
            "203.0.113.5")
      << "several lines are one list";
  EXPECT_EQ(
      ClientOf(Head({{"x-forwarded-for", "192.0.2.1, garbage, 10.0.0.2"}}), "10.0.0.1", proxies),
      "10.0.0.2")
      << "what stands before something unreadable is not known";
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "10.0.0.3,10.0.0.2"}}), "10.0.0.1", proxies),
            "10.0.0.3")
      << "all are proxies: the first of them asks for itself";
  EXPECT_EQ(ClientOf(Head({{"forwarded", "for=192.0.2.1"}, {"x-real-ip", "192.0.2.1"}}), "10.0.0.1",
                     proxies),
            "10.0.0.1");
}

TEST(RequestHeadersTest, AnEmptyEntryEndsTheList) {
  const auto proxies = Networks({"10.0.0.0/8"});
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", "192.0.2.1,,10.0.0.2"}}), "10.0.0.1", proxies),
            "10.0.0.2");
  EXPECT_EQ(ClientOf(Head({{"x-forwarded-for", ","}}), "10.0.0.1", proxies), "10.0.0.1");
}

}  // namespace
}  // namespace choir
