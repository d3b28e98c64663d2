#include "common/base/bearer.h"

#include <algorithm>
#include <cctype>

namespace choir {

std::string_view BearerIn(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size()) return {};
  const auto same = [](char a, char b) {
    return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
  };
  if (!std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), same)) return {};
  std::string_view key = authorization;
  key.remove_prefix(std::min(key.find_first_not_of(' ', kScheme.size()), key.size()));
  const bool visible =
      std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  return visible ? key : std::string_view();
}

}  // namespace choir
