// What a transfer of device_collectives.h is to NCCL: calls between begin_group and end_group.
// Private to worker/comm; owner thread of the communicator.
#pragma once

#include <cstddef>
#include <span>

#include "common/base/check.h"
#include "common/base/status.h"
#include "kernels/cuda/nccl_table.h"
#include "worker/comm/device_collectives.h"

namespace choir {

struct NcclPosts {
  const cuda::NcclTable& nccl;
  void* communicator;
  void* stream;
  int rank, size;

  // To each rank what is for it, and from each what it has for this one; nobody to itself.
  Status Rows(const DeviceTransfer& transfer) const {
    const std::byte* from = transfer.send;
    std::byte* to = transfer.recv;
    for (int r = 0; r < size; ++r) {
      const auto i = static_cast<size_t>(r);
      const size_t out = transfer.send_bytes[i], in = transfer.recv_bytes[i];
      CHOIR_CHECK(r != rank || (out == 0 && in == 0));
      if (out > 0) {
        CHOIR_RETURN_IF_ERROR(Said(nccl.send(communicator, from, out, r, stream), transfer.what));
      }
      if (in > 0) {
        CHOIR_RETURN_IF_ERROR(Said(nccl.recv(communicator, to, in, r, stream), transfer.what));
      }
      from += out;
      to += in;
    }
    return absl::OkStatus();
  }

  Status Slots(const char* what, std::span<const DeviceSlot> slots) const {
    for (const DeviceSlot& s : slots) {
      if (s.bytes == 0) continue;
      CHOIR_RETURN_IF_ERROR(
          Said(nccl.all_gather(communicator, s.own, s.all, s.bytes, stream), what));
    }
    return absl::OkStatus();
  }

  Status Outputs(const char* what, const DeviceSlotRoom& room, size_t bytes) const {
    if (bytes == 0) return absl::OkStatus();
    return Said(nccl.all_to_all(communicator, room.outputs_out, room.outputs_in, bytes, stream),
                what);
  }

  Status Said(const char* error, const char* what) const {
    if (error == nullptr) return absl::OkStatus();
    return Unavailable("NCCL {} at rank {} of {}: {}; NCCL_DEBUG=WARN in its environment says more",
                       what, rank, size, error);
  }
};

}  // namespace choir
