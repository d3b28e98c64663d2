// The device behind a table of the CUDA module, or behind an emulated one in tests. Its memory is
// one allocation, taken by Reserve and dealt out once: buffers of it end with the device.
#pragma once

#include <memory>

#include "kernels/cuda/device_table.h"
#include "worker/device/bounded_wait.h"
#include "worker/device/device.h"

namespace choir {

// `table` outlives the device; `index` is one that its probe counts. Unavailable: it does not
// answer. A wait beyond `bound` ends the process.
StatusOr<std::unique_ptr<Device>> MakeTableDevice(const cuda::DeviceTable& table, int32_t index,
                                                  const WaitBound& bound = {});

}  // namespace choir
