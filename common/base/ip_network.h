// IP addresses and the networks that they are in (CIDR, RFC 4632 and RFC 4291): who may use a key
// from where, which proxies are believed. Plain values, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace choir {

// An IPv4 address is kept as ::ffff:a.b.c.d, so that a client is the same one whichever kind of
// socket it came by.
struct IpAddress {
  std::array<uint8_t, 16> bytes{};
  bool operator==(const IpAddress&) const = default;

  // "10.0.0.1" or "2001:db8::1", without the prefix that marks an IPv4 address.
  std::string Text() const;
};

// "10.0.0.1", "2001:db8::1", "[2001:db8::1]"; a zone ("%eth0") is dropped. nullopt for all else.
std::optional<IpAddress> ParseIpAddress(std::string_view text);

// The address in what a socket or gRPC calls its peer: as above, also with a port
// ("10.0.0.1:443", "[::1]:443", "ipv4:10.0.0.1:443", "ipv6:%5B::1%5D:443"). nullopt where there is
// none ("unix:...").
std::optional<IpAddress> AddressOfPeer(std::string_view peer);

class IpNetwork {
 public:
  // "10.0.0.0/8", "2001:db8::/32"; an address alone is a network of one. Bits beyond the prefix
  // must be 0: 10.0.0.1/8 is more likely a slip than meant.
  static StatusOr<IpNetwork> Parse(const std::string& text);

  bool Contains(const IpAddress& address) const;
  const std::string& Text() const { return text_; }
  bool operator==(const IpNetwork& other) const { return text_ == other.text_; }

 private:
  std::string text_;  // as given
  IpAddress base_;
  int prefix_bits_ = 128;  // of 128
};

bool ContainsAddress(const std::vector<IpNetwork>& networks, const IpAddress& address);

}  // namespace choir
