// What Kubernetes' LeaderWorkerSet tells each pod of a group; defaults of --leader, --group,
// --ranks and --rank. Source: sigs.k8s.io/lws, "Built-in environment variables".
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/base/status.h"

namespace choir {

struct LwsEnvironment {
  std::string leader;  // LWS_LEADER_ADDRESS, a host: "choir-0.choir.default"
  int64_t group = 0;   // the number at the end of its first label
  int64_t size = 1;    // LWS_GROUP_SIZE
  int64_t index = 0;   // LWS_WORKER_INDEX; 0 is the leader
};

// nullopt: LWS_LEADER_ADDRESS is not set. InvalidArgument names the variable that is wrong.
StatusOr<std::optional<LwsEnvironment>> ReadLwsEnvironment(
    const std::function<const char*(const char* name)>& get);

}  // namespace choir
