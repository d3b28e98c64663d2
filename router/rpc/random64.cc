#include "router/rpc/random64.h"

#include <openssl/rand.h>

#include <array>

#include "common/base/check.h"

namespace choir {

// Several at a time: each request takes three, and the generator's start is what costs.
uint64_t Random64() {
  thread_local std::array<uint64_t, 64> drawn;
  thread_local size_t left = 0;
  if (left == 0) {
    CHOIR_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(drawn.data()), sizeof drawn) == 1);
    left = drawn.size();
  }
  return drawn[--left];
}

}  // namespace choir
