#include "router/identity/base64url.h"

namespace choir {
namespace {

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

}  // namespace

std::string ToBase64Url(std::span<const uint8_t> bytes) {
  std::string out;
  uint32_t bits = 0;
  int num_bits = 0;
  for (const uint8_t b : bytes) {
    bits = (bits << 8) | b;
    for (num_bits += 8; num_bits >= 6; num_bits -= 6) {
      out.push_back(kDigits[(bits >> (num_bits - 6)) & 63]);
    }
  }
  if (num_bits > 0) out.push_back(kDigits[(bits << (6 - num_bits)) & 63]);
  return out;
}

std::optional<std::string> FromBase64Url(std::string_view text) {
  if (text.size() % 4 == 1) return std::nullopt;
  std::string out;
  out.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    out.push_back(static_cast<char>((bits >> num_bits) & 0xff));
  }
  if ((bits & ((1u << num_bits) - 1)) != 0) return std::nullopt;
  return out;
}

}  // namespace choir
