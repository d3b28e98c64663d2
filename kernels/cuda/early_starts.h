// Whether kernels of this process may start while the one ahead of them on their stream still runs
// (decisions/0046), where the card can: DeviceTable::allow_early_starts.
#pragma once

#include <atomic>

namespace choir::cuda {

inline std::atomic<bool> early_starts{true};

}  // namespace choir::cuda
