// Base64 with the alphabet of URLs and without padding (RFC 4648 §5, RFC 7515 §2). Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace choir {

std::string ToBase64Url(std::span<const uint8_t> bytes);
// nullopt for padding, other characters, a length that cannot be and bits beyond the last byte: of
// each value there is one spelling only.
std::optional<std::string> FromBase64Url(std::string_view text);

}  // namespace choir
