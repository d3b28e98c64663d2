// Collectives of ranks that have GPUs: rows travel by NCCL from device to device, everything else
// (barriers, headers, announcements, who is alive) by the collectives of the hosts, which find a
// dead rank in milliseconds. NCCL is never waited for inside NCCL: communicators do not block, and
// while the host waits for the device it looks at NCCL, at the clock and at the other collectives.
// The first error, timeout or loss aborts the communicator on every rank, with one reason, and the
// group forms anew as the next generation. A device or an abort that does not let go ends the
// process.
#pragma once

#include <cstdint>
#include <memory>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "kernels/cuda/device_table.h"
#include "kernels/cuda/nccl_table.h"
#include "worker/comm/collectives.h"
#include "worker/comm/device_collectives.h"

namespace choir {

struct NcclParts {
  const cuda::DeviceTable* device = nullptr;  // outlive the collectives
  const cuda::NcclTable* nccl = nullptr;
  int32_t card = 0;                             // of this rank
  Duration timeout = std::chrono::seconds(30);  // of one transfer, with what it comes after
  Duration connect_timeout = std::chrono::seconds(20);
  DeviceSlotSizes slots = {};  // at most
};

// Puts NCCL beside `*collectives`, and proves with a small transfer that it works. All ranks call
// it together and get the same answer. An error leaves `*collectives` as they were, unless they
// died themselves.
Status ConnectNccl(const NcclParts& parts, std::unique_ptr<Collectives>* collectives);

// "2.28.9", from NcclTable::open's number.
std::string NcclVersion(int32_t version);

}  // namespace choir
