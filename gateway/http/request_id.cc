#include "gateway/http/request_id.h"

#include <cstdint>
#include <random>
#include <string_view>

namespace choir {

std::string GivenRequestId(const HttpHead& head) {
  const std::string_view given = head.Field("x-request-id");
  return std::string(IsRequestId(given) ? given : "");
}

std::string MakeRequestId() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  const uint64_t high = random();
  return FormatRequestId(high, random());
}

}  // namespace choir
