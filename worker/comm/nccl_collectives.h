// Collectives of ranks that have GPUs: rows travel by NCCL, everything else (barriers, headers,
// announcements, who is alive) by the collectives of the hosts, which find a dead rank in
// milliseconds. NCCL is never waited for inside NCCL: communicators do not block, and while one
// works this rank looks at its own clock and at the other collectives. The first error, timeout or
// loss aborts the communicator on every rank, with one reason, and the group forms anew as the next
// generation.
//
// AllToAllV's buffers: memory that the device can read and write (device, managed or pinned). They
// are free again on return; a device that does not let go of them in `timeout` ends the process.
#pragma once

#include <memory>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "kernels/cuda/device_table.h"
#include "kernels/cuda/nccl_table.h"
#include "worker/comm/collectives.h"

namespace choir {

struct NcclParts {
  std::unique_ptr<Collectives> control;       // of the same ranks; its generation is this one's
  const cuda::DeviceTable* device = nullptr;  // outlive the collectives
  const cuda::NcclTable* nccl = nullptr;
  Duration timeout = std::chrono::seconds(30);  // of connecting, and of one exchange
};

// All ranks call it together. An error here is the death of `control` on all of them.
StatusOr<std::unique_ptr<Collectives>> MakeNcclCollectives(NcclParts parts);

}  // namespace choir
