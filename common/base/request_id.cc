#include "common/base/request_id.h"

#include <fmt/format.h>

#include "common/base/plain_name.h"

namespace choir {

bool IsRequestId(std::string_view id) { return IsPlainName(id, kRequestIdMax); }

std::string FormatRequestId(uint64_t random, uint64_t more_random) {
  return fmt::format("req-{:016x}{:08x}", random, more_random >> 32);
}

}  // namespace choir
