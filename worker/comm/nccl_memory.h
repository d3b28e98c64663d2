// What NCCL and the slots of an epoch take of a card beside the device's one allocation: known
// before loading, so that the rest of the card can be left to it. Pure.
#pragma once

#include <algorithm>
#include <cstddef>

#include "worker/comm/device_collectives.h"

namespace choir {

// NCCL's own, after what its issues tell of 2.26 to 2.28 on eight cards of one machine (not
// measured here): the buffer that all peers of the network share, and for each peer of the same
// machine 32 channels of 10 MiB in and 2 MiB out, whatever is sent.
inline constexpr size_t kNcclSharedBytes = size_t{512} << 20;
inline constexpr size_t kNcclPeerBytes = size_t{32 * (10 + 2)} << 20;
inline constexpr int kNcclNearPeersMax = 7;

// Of the rank's own slots and of those of all ranks, and of outputs both ways; windows are whole
// pages.
constexpr size_t SlotPages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }
constexpr size_t SlotRoomBytes(const DeviceSlotSizes& sizes, int num_ranks) {
  const auto ranks = static_cast<size_t>(num_ranks);
  return SlotPages(sizes.slot) + SlotPages(sizes.slot * ranks) +
         2 * SlotPages(sizes.outputs * ranks);
}

constexpr size_t NcclBytes(const DeviceSlotSizes& sizes, int num_ranks) {
  const auto peers = static_cast<size_t>(std::min(num_ranks - 1, kNcclNearPeersMax));
  return kNcclSharedBytes + peers * kNcclPeerBytes + SlotRoomBytes(sizes, num_ranks);
}

}  // namespace choir
