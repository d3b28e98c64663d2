// Memory of the slots of one epoch (DeviceCollectives::slots): NCCL's own where it has symmetric
// memory, so that it may be registered, else the device's. Private to worker/comm.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_table.h"
#include "kernels/cuda/nccl_table.h"
#include "worker/comm/device_collectives.h"
#include "worker/comm/nccl_memory.h"

namespace choir {

class NcclSlotRoom {
 public:
  NcclSlotRoom(const cuda::DeviceTable* device, const cuda::NcclTable* nccl)
      : device_(*device), nccl_(*nccl) {}
  ~NcclSlotRoom() { Free(); }
  NcclSlotRoom(const NcclSlotRoom&) = delete;
  NcclSlotRoom& operator=(const NcclSlotRoom&) = delete;

  // Null, or why there is none.
  const char* Allocate(const DeviceSlotSizes& sizes, int ranks) {
    room_.sizes = sizes;
    if (sizes.slot == 0) return nullptr;
    const size_t total = SlotRoomBytes(sizes, ranks);
    void* memory = nullptr;
    symmetric_ = nccl_.allocate != nullptr && nccl_.allocate(total, &memory) == nullptr;
    if (!symmetric_) {
      if (const char* error = device_.allocate(total, &memory)) return error;
    }
    total_ = total;
    room_.own = static_cast<std::byte*>(memory);
    room_.all = room_.own + SlotPages(sizes.slot);
    room_.outputs_out = room_.all + SlotPages(sizes.slot * static_cast<size_t>(ranks));
    room_.outputs_in = room_.outputs_out + SlotPages(sizes.outputs * static_cast<size_t>(ranks));
    return nullptr;
  }
  bool symmetric() const { return symmetric_; }
  // Of all ranks together; null, or why not.
  const char* Register(void* communicator) {
    return nccl_.register_window(communicator, room_.own, total_, &window_);
  }
  void Free() {
    if (room_.own == nullptr) return;
    (symmetric_ ? nccl_.free : device_.free)(room_.own);
    room_ = {};
  }
  const DeviceSlotRoom& room() const { return room_; }

 private:
  const cuda::DeviceTable& device_;
  const cuda::NcclTable& nccl_;
  bool symmetric_ = false;
  size_t total_ = 0;
  void* window_ = nullptr;  // NCCL's, which sets it whenever it likes
  DeviceSlotRoom room_;
};

}  // namespace choir
