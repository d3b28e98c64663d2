// Names that may stand in logs, paths and headers as they are: of requests, tenants and rules.
// Pure.
#pragma once

#include <cstddef>
#include <string_view>

namespace choir {

// 1 to `max` of [A-Za-z0-9._-].
constexpr bool IsPlainName(std::string_view name, size_t max) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !name.empty() && name.size() <= max &&
         name.find_first_not_of(kPlain) == std::string_view::npos;
}

}  // namespace choir
