#include "common/base/ip_network.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

bool In(const std::string& network, const std::string& address) {
  const auto parsed = IpNetwork::Parse(network);
  const auto ip = ParseIpAddress(address);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(ip) << address;
  return parsed.ok() && ip && parsed->Contains(*ip);
}

TEST(IpNetworkTest, APrefixEndsAtItsBit) {
  EXPECT_TRUE(In("10.0.0.0/8", "10.255.255.255"));
  EXPECT_FALSE(In("10.0.0.0/8", "11.0.0.0"));
  EXPECT_TRUE(In("192.168.4.0/22", "192.168.7.255"));
  EXPECT_FALSE(In("192.168.4.0/22", "192.168.8.0"));
  EXPECT_TRUE(In("192.168.4.1", "192.168.4.1"));
  EXPECT_FALSE(In("192.168.4.1/32", "192.168.4.2"));
  EXPECT_TRUE(In("2001:db8::/33", "2001:db8:7fff::1"));
  EXPECT_FALSE(In("2001:db8::/33", "2001:db8:8000::1"));
  EXPECT_TRUE(In("::1", "::1"));
}

TEST(IpNetworkTest, AnIpv4ClientIsTheSameOnAnIpv6Socket) {
  EXPECT_TRUE(In("10.0.0.0/8", "::ffff:10.1.2.3"));
  EXPECT_EQ(ParseIpAddress("::ffff:10.1.2.3")->Text(), "10.1.2.3");
  EXPECT_FALSE(In("0.0.0.0/0", "2001:db8::1")) << "all of IPv4 is not IPv6";
  EXPECT_TRUE(In("::/0", "2001:db8::1"));
}

TEST(IpNetworkTest, SlipsAreNamed) {
  for (const char* text : {"", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/8x",
                           "10.0.0.0/ 8", "10.0.0.1/8", "10.0.0", "host", "2001:db8::1/32",
                           "::/129", "fe80::1%eth0", "[::1]", "10.0.0.0/8/8", "010.0.0.0/8", "*"}) {
    const auto network = IpNetwork::Parse(text);
    ASSERT_FALSE(network.ok()) << text;
    EXPECT_NE(MessageOf(network.status()).find("10.0.0.0/8"), std::string::npos);
  }
}

TEST(IpNetworkTest, FindsTheAddressOfAPeer) {
  const auto of = [](std::string_view peer) {
    const auto address = AddressOfPeer(peer);
    return address ? address->Text() : "none";
  };
  EXPECT_EQ(of("127.0.0.1:443"), "127.0.0.1");
  EXPECT_EQ(of("127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(of("[::1]:443"), "::1");
  EXPECT_EQ(of("::1"), "::1");
  EXPECT_EQ(of("ipv4:10.0.0.1:1"), "10.0.0.1");
  EXPECT_EQ(of("ipv6:%5B2001:db8::1%5D:65535"), "2001:db8::1");
  EXPECT_EQ(of("ipv6:[fe80::1%25eth0]:1"), "fe80::1");
  for (const char* peer :
       {"", "unix:/run/x", "unix:", "ipv4:", "example.org:443", "[10.0.0.1]:1"}) {
    EXPECT_EQ(of(peer), "none") << peer;
  }
  EXPECT_EQ(of(std::string_view("127.0.0.1\0.9", 12)), "none");
}

}  // namespace
}  // namespace choir
