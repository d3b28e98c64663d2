#include "common/base/request_id.h"

#include <fmt/format.h>

#include "common/base/plain_name.h"

namespace choir {

bool IsRequestId(std::string_view id) { return IsPlainName(id, kRequestIdMax); }

bool IsMadeRequestId(std::string_view id) {
  constexpr std::string_view kPrefix = "req-";
  constexpr size_t kDigits = 24;
  return id.size() == kPrefix.size() + kDigits && id.starts_with(kPrefix) &&
         id.find_first_not_of("0123456789abcdef", kPrefix.size()) == std::string_view::npos;
}

std::string FormatRequestId(uint64_t random, uint64_t more_random) {
  return fmt::format("req-{:016x}{:08x}", random, more_random >> 32);
}

}  // namespace choir
