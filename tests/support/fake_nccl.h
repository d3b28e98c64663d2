// NCCL and a device as far as nccl_collectives uses them, with ranks as threads of one process:
// bytes are copied when the receiver looks whether it is done, as a GPU would behind the host's
// back. Faults are set for all communicators that are made afterwards.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_table.h"
#include "kernels/cuda/nccl_table.h"

namespace choir {

struct FakeNcclFaults {
  int32_t version = 22809;
  const char* open_error = nullptr;
  int32_t failing_rank = -1;      // its communicator fails once it has an exchange to do
  int32_t unconnected_rank = -1;  // never becomes ready, so nobody does
};

const cuda::DeviceTable& FakeDevice();
const cuda::NcclTable& FakeNccl();
void SetFakeNcclFaults(const FakeNcclFaults& faults);
int64_t FakeNcclHandles();  // communicators, streams and events that are not yet given back

}  // namespace choir
