// The name of a StatefulSet's pod says which rank it is: pod i of groups of n ranks is rank i mod n
// of group i / n, and rank 0 of the group is its leader.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"

namespace choir {

struct PodPlace {
  int64_t group = 0;
  int64_t rank = 0;
  std::string leader;  // host of the group's rank 0
};

// `pod` is "choir-worker-5.choir-worker": the pod's name and, behind a dot, the rest of the host
// name by which the others find it.
StatusOr<PodPlace> PlaceOfPod(const std::string& pod, int64_t ranks);

}  // namespace choir
