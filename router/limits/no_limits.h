// The lease of a request to which no limit applies.
#pragma once

#include <memory>

#include "router/limits/limits.h"

namespace choir {

std::unique_ptr<LimitLease> MakeFreeLease();

}  // namespace choir
