// The experts of a layer where the device has no room for all of them (docs/decisions/0040): the
// host computes the rows of its own while the device computes the others. Rows of the host's
// experts come last. One object serves all layers of a model; owner thread only.
//
//   device  ... rows grouped | its experts ................. | join | combine ...
//   lane                     | rows down |          | up     |
//   host                                 | experts  |
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/kernels.h"
#include "worker/device/device.h"
#include "worker/model/weights/host_buffer.h"

namespace choir {

struct HostFfnSizes {
  int64_t rows_max = 0;  // that go down at a time; more go in turns
  int64_t hidden = 0, width = 0;
  bool f8_rows = false;  // Run may be given rows in f8
  int num_threads = 1;   // of the streams' teams
};

class HostFfn {
 public:
  // `kernels`: the host's; outlive it, as `device` does.
  static StatusOr<HostFfn> Make(Device* device, const KernelSet* kernels,
                                const HostFfnSizes& sizes);

  // As kernels.ExpertFfn(all, stream), but that the experts from `device_experts` on are the
  // host's: their weights are in its memory. x, y and scratch are the device's. Rows in f8 become
  // bf16 for the host, which computes with them as with any. An error is the device's.
  Status Run(const KernelSet& kernels, const ExpertFfnArgs& all, size_t device_experts,
             const Stream& stream);

 private:
  HostFfn() = default;
  void Widen(const ExpertFfnArgs& all, int64_t count);
  Status RunRows(const ExpertFfnArgs& all, size_t device_experts, int64_t first, int64_t count,
                 const Stream& stream);

  Device* device_ = nullptr;
  const KernelSet* kernels_ = nullptr;
  HostFfnSizes sizes_;
  DeviceBuffer x_, y_;  // of the host: [rows_max, hidden] f32
  HostBuffer widened_;  // [rows_max, hidden] bf16; only for rows in f8
  HostBuffer scratch_;  // [rows_max, width] f32
  HostBuffer workspace_;
  std::vector<int32_t> offsets_;
  std::unique_ptr<DeviceLane> lane_;  // ends first: copies of the buffers may still be under way
};

}  // namespace choir
