// Whether a fast rung of kernels is right on the card at hand: its products, attention and sampling
// on small seeded shapes against those of the simple rung, on that card, before a worker uses it.
// For rungs that make use of what only a card can prove.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "kernels/cuda/device_table.h"
#include "kernels/cuda/kernel_table.h"
#include "worker/device/bounded_wait.h"

namespace choir {

struct CardOfCheck {
  const cuda::DeviceTable& device;
  int32_t index;
  BoundedWait wait;
};

// What differs, or which op the card refused to start and goes on, in words; empty: nothing. An
// error: the card fails, perhaps by the kernels themselves; then it is of no use to this process
// any more. Takes 16 MiB of it for a moment.
StatusOr<std::string> DifferenceOfKernels(const CardOfCheck& card, const cuda::KernelTable& fast,
                                          const cuda::KernelTable& simple);

}  // namespace choir
