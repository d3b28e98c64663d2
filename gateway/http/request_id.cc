#include "gateway/http/request_id.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <random>

namespace choir {
namespace {

constexpr size_t kBytesMax = 128;

}  // namespace

bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kBytesMax &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

std::string MakeRequestId() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  const uint64_t high = random();
  return fmt::format("req-{:016x}{:08x}", high, random() >> 32);
}

}  // namespace choir
