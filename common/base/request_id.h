// Names of requests, as clients may give them and as gateway and router make them. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace choir {

inline constexpr size_t kRequestIdMax = 128;

// 1 to kRequestIdMax of [A-Za-z0-9._-].
bool IsRequestId(std::string_view id);

// Whether it is of the form that gateway and router make.
bool IsMadeRequestId(std::string_view id);

// "req-" and 96 of the 128 given random bits, in hex.
std::string FormatRequestId(uint64_t random, uint64_t more_random);

}  // namespace choir
