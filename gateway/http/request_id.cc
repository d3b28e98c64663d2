#include "gateway/http/request_id.h"

#include <cstdint>
#include <random>

namespace choir {
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
