#include "common/base/ip_network.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace choir {
namespace {

constexpr std::array<uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr size_t kTextMax = 64;

bool IsIpv4(const IpAddress& address) {
  return std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), address.bytes.begin());
}

bool BitOf(const IpAddress& address, int bit) {
  return ((address.bytes[bit / 8] >> (7 - bit % 8)) & 1) != 0;
}

// "%5B::1%5D:443" is how gRPC writes "[::1]:443".
std::string WithBrackets(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view code = text.substr(i, 3);
    const bool opens = code == "%5B" || code == "%5b", closes = code == "%5D" || code == "%5d";
    out.push_back(opens ? '[' : closes ? ']' : text[i]);
    if (opens || closes) i += 2;
  }
  return out;
}

}  // namespace

std::string IpAddress::Text() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (IsIpv4(*this)) {
    inet_ntop(AF_INET, bytes.data() + kMappedPrefix.size(), text, sizeof text);
  } else {
    inet_ntop(AF_INET6, bytes.data(), text, sizeof text);
  }
  return text;
}

std::optional<IpAddress> ParseIpAddress(std::string_view text) {
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
    text = text.substr(1, text.size() - 2);
    if (text.find(':') == std::string_view::npos) return std::nullopt;  // no IPv6 address
  }
  if (text.find(':') != std::string_view::npos) text = text.substr(0, text.find('%'));
  if (text.empty() || text.size() > kTextMax || text.find('\0') != std::string_view::npos) {
    return std::nullopt;
  }
  const std::string terminated(text);
  IpAddress address;
  if (inet_pton(AF_INET6, terminated.c_str(), address.bytes.data()) == 1) return address;
  std::copy(kMappedPrefix.begin(), kMappedPrefix.end(), address.bytes.begin());
  if (inet_pton(AF_INET, terminated.c_str(), address.bytes.data() + kMappedPrefix.size()) == 1) {
    return address;
  }
  return std::nullopt;
}

std::optional<IpAddress> AddressOfPeer(std::string_view peer) {
  for (const std::string_view scheme : {"ipv4:", "ipv6:"}) {
    if (peer.starts_with(scheme)) peer.remove_prefix(scheme.size());
  }
  const std::string text = WithBrackets(peer.substr(0, kTextMax));
  if (const auto whole = ParseIpAddress(text)) return whole;
  const size_t colon = text.rfind(':');
  return colon == std::string::npos ? std::nullopt : ParseIpAddress(text.substr(0, colon));
}

StatusOr<IpNetwork> IpNetwork::Parse(const std::string& text) {
  const auto bad = [&](const char* why) {
    return InvalidArgument("'{}' is no network: {}; write for example 10.0.0.0/8 or 2001:db8::/32",
                           text.substr(0, kTextMax), why);
  };
  const size_t slash = text.find('/');
  const std::string_view address_text = std::string_view(text).substr(0, slash);
  const auto address = ParseIpAddress(address_text);
  if (!address || address_text.find_first_of("[%") != std::string_view::npos) {
    return bad("it does not begin with an address");
  }
  IpNetwork network;
  network.text_ = text;
  network.base_ = *address;
  if (slash == std::string::npos) return network;
  const bool is_ipv4 = address_text.find(':') == std::string_view::npos;
  const int bits_max = is_ipv4 ? 32 : 128;
  int bits = -1;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + slash + 1, end, bits);
  if (error != std::errc() || rest != end || bits < 0 || bits > bits_max) {
    return bad(is_ipv4 ? "0 to 32 is needed after '/'" : "0 to 128 is needed after '/'");
  }
  network.prefix_bits_ = 128 - bits_max + bits;
  for (int bit = network.prefix_bits_; bit < 128; ++bit) {
    if (BitOf(*address, bit)) return bad("the address has bits beyond the prefix");
  }
  return network;
}

bool IpNetwork::Contains(const IpAddress& address) const {
  const int whole = prefix_bits_ / 8;
  if (!std::equal(base_.bytes.begin(), base_.bytes.begin() + whole, address.bytes.begin())) {
    return false;
  }
  const int rest = prefix_bits_ % 8;
  return rest == 0 || (base_.bytes[whole] >> (8 - rest)) == (address.bytes[whole] >> (8 - rest));
}

bool ContainsAddress(const std::vector<IpNetwork>& networks, const IpAddress& address) {
  return std::any_of(networks.begin(), networks.end(),
                     [&](const IpNetwork& network) { return network.Contains(address); });
}

}  // namespace choir
