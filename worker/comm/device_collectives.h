// Rows of an epoch's ranks from the memory of one device into that of another, beside the
// collectives of the hosts (Collectives::device). Everything is enqueued: the host waits in
// Device::Wait, guarded by Look. The first error kills the communicator of device and hosts on all
// ranks, with one reason. Owner thread of the collectives only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/base/status.h"

namespace choir {

// How rows on a device may reach other ranks: what the collectives of an epoch can is one of it.
enum class RowPath : uint8_t { kHost, kDevice, kEither };

// Bytes in device memory, one part for each rank, one after the other; the own part is empty.
struct DeviceTransfer {
  const char* what = "";  // "dispatch", for errors
  const std::byte* send = nullptr;
  std::span<const size_t> send_bytes;
  std::byte* recv = nullptr;
  std::span<const size_t> recv_bytes;  // what the others send here
};

// Equal slots: what this rank has for all, and what all have, one after the other by rank. The
// sizes are the same on all ranks, so that none has to be told. Both lie in the slots' room.
struct DeviceSlot {
  const std::byte* own = nullptr;
  size_t bytes = 0;
  std::byte* all = nullptr;
};
// The same on all ranks.
struct DeviceSlotSizes {
  size_t slot = 0;     // bytes that a rank has for all; 0: no slots
  size_t outputs = 0;  // bytes that a rank has for each one in an exchange of equal parts; 0: none
};
// Room for what is sent and received in slots and in equal parts, in memory that suits it best. All
// is 256-byte aligned.
struct DeviceSlotRoom {
  DeviceSlotSizes sizes;
  std::byte* own = nullptr;          // sizes.slot
  std::byte* all = nullptr;          // so many for each rank
  std::byte* outputs_out = nullptr;  // sizes.outputs for each rank, as
  std::byte* outputs_in = nullptr;
};

inline constexpr size_t kDeviceSlotsMax = 4;

class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;
  virtual std::string device_name() const = 0;  // "NCCL 2.28.9"

  // All ranks in the same order. The transfer comes after all that `stream` has so far, and beside
  // what it gets before its End; what it gets after that comes after the transfer. Buffers stay as
  // they are. Two transfers may be between Begin and End; End is that of the one begun first.
  virtual Status Begin(const DeviceTransfer& transfer, void* stream) = 0;
  // The same with slots, which travel together; at most kDeviceSlotsMax.
  virtual const DeviceSlotRoom& slots() const = 0;
  virtual Status BeginSlots(const char* what, std::span<const DeviceSlot> slots, void* stream) = 0;
  // What outputs_out has for each rank, `bytes` one after the other, to outputs_in of that rank,
  // where it lies by the rank that it comes from; the own part as well.
  virtual Status BeginOutputs(const char* what, size_t bytes, void* stream) = 0;
  virtual Status End(void* stream) = 0;
  // OK while a transfer that was begun can still be completed. When it is not, the communicator is
  // dead and nothing on any stream waits for it any more.
  virtual Status Look() = 0;
  // Streams and buffers of transfers may go away after it. A transfer that is not over ends the
  // communicator.
  virtual void Leave() = 0;
};

}  // namespace choir
