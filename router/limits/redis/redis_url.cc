#include "router/limits/redis/redis_url.h"

#include <charconv>

namespace choir {
namespace {

constexpr int kDbMax = 65'535;

StatusOr<std::string> Decode(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    const char* const digits = text.data() + i + 1;
    if (i + 2 >= text.size() || std::from_chars(digits, digits + 2, value, 16).ptr != digits + 2) {
      return InvalidArgument("redis.url: a '%' is not followed by two hex digits");
    }
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

Status ReadNumber(const std::string& text, const char* what, int min, int max, int* out) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, *out);
  if (error == std::errc() && rest == end && *out >= min && *out <= max) return absl::OkStatus();
  return InvalidArgument("redis.url: the {} is not a number from {} to {}", what, min, max);
}

Status ReadUser(const std::string& text, RedisAddress* address) {
  const size_t colon = text.find(':');
  CHOIR_ASSIGN_OR_RETURN(address->user, Decode(text.substr(0, colon)));
  if (colon == std::string::npos) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(address->password, Decode(text.substr(colon + 1)));
  return absl::OkStatus();
}

}  // namespace

StatusOr<RedisAddress> ParseRedisUrl(const std::string& url) {
  RedisAddress address;
  address.tls = url.starts_with("rediss://");
  if (!address.tls && !url.starts_with("redis://")) {
    return InvalidArgument(
        "redis.url: must be redis://[user][:password]@host[:port][/db], or rediss:// for TLS");
  }
  std::string rest = url.substr(url.find("//") + 2);
  if (const size_t at = rest.rfind('@'); at != std::string::npos) {
    CHOIR_RETURN_IF_ERROR(ReadUser(rest.substr(0, at), &address));
    rest = rest.substr(at + 1);
  }
  if (const size_t slash = rest.find('/'); slash != std::string::npos) {
    const std::string db = rest.substr(slash + 1);
    if (!db.empty()) CHOIR_RETURN_IF_ERROR(ReadNumber(db, "database", 0, kDbMax, &address.db));
    rest = rest.substr(0, slash);
  }
  const size_t bracket = rest.find(']');  // of an IPv6 address
  const size_t colon = rest.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon != std::string::npos) {
    CHOIR_RETURN_IF_ERROR(ReadNumber(rest.substr(colon + 1), "port", 1, 65'535, &address.port));
    rest = rest.substr(0, colon);
  }
  if (rest.starts_with("[") && rest.ends_with("]")) rest = rest.substr(1, rest.size() - 2);
  if (rest.empty()) return InvalidArgument("redis.url: has no host");
  address.host = rest;
  return address;
}

}  // namespace choir
