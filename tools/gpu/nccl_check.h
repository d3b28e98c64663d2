// NCCL between processes that share one card: each has a host id of its own and they meet over
// sockets on the loopback. All bytes of all-to-alls, a rank that is killed in the middle, and the
// rest as the next generation. Where the module has no NCCL (an emulated one) the same runs over
// shared memory alone, and says so.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "common/base/clock.h"
#include "tools/gpu/exchange_play.h"

namespace choir::gpu {

struct NcclCheckOptions {
  std::string module;
  Duration limit = std::chrono::seconds(40);    // of all processes together
  Duration timeout = std::chrono::seconds(15);  // of connecting, and of one exchange
  PlayOptions play;
};

inline constexpr int kNothingToCheck = 3;

// {"ranks", "over", "lines", "failures", ...}; "nothing": why nothing could be checked. The caller
// has one thread and has not opened the module.
nlohmann::ordered_json CheckNccl(int num_ranks, const NcclCheckOptions& options);

}  // namespace choir::gpu
