// What ranks and leader of a group tell each other: plain values; worker/rpc converts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "worker/comm/exchange_endpoint.h"

namespace choir {

// Who was silent for so long is given up; signs of life go out some times as often.
inline constexpr Duration kHeartbeatTimeout = std::chrono::seconds(5);
inline constexpr int kBeatsPerTimeout = 5;

// Of a rank: kRunning and kDone mean that it leaves, with and without sequences of its own; kIdle
// that it only follows another's drain and has none. Of the group: kDone when no rank has any.
enum class DrainStage : uint8_t { kNone, kRunning, kDone, kIdle };

// A rank introduces itself.
struct MemberHello {
  uint32_t protocol_version = 0;
  std::string build;
  uint32_t group = 0;
  uint32_t rank = 0;
  uint32_t group_size = 0;
  uint64_t incarnation = 0;  // grows with every start of the process
  std::string numerics_id;
  std::string model, dtype, kernels;  // what numerics_id stands for, to name a difference
  std::string placement;              // options of the placement of experts: ranks move together
  std::string host;                   // equal: can share memory
  int64_t pid = 0;
  std::string address;      // "127.0.0.1:7101"
  uint64_t last_epoch = 0;  // the highest it has seen
};

// Who forms an epoch, by rank.
struct EpochPlan {
  uint64_t epoch = 0;
  std::vector<MemberHello> members;
};

}  // namespace choir
