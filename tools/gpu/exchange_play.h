// What ranks do with their collectives to see that every byte comes where it belongs: ragged and
// large transfers between barriers and gathers. The same over NCCL between processes on one card,
// over a fake one between threads, and over shared memory. One thread a rank.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "common/base/status.h"
#include "kernels/cuda/device_table.h"
#include "worker/comm/collectives.h"

namespace choir::gpu {

// Brings bytes from rank to rank: through the hosts, or from device to device. All ranks call it
// together, with parts one after the other, one for each rank.
class RowMover {
 public:
  virtual ~RowMover() = default;
  virtual Status Move(std::span<const std::byte> out, std::span<const size_t> out_bytes,
                      std::span<std::byte> in, std::span<const size_t> in_bytes) = 0;
  // The same sizes for all, between the memories that rows are in: contents do not matter.
  virtual Status MoveAgain(size_t bytes) = 0;
};
// `collectives` outlives it. Messages of `bytes_max` at the most, to and from each.
std::unique_ptr<RowMover> HostMover(Collectives* collectives, size_t bytes_max);
// REQUIRES: collectives->device() is there. On card `card` of `table`.
StatusOr<std::unique_ptr<RowMover>> DeviceMover(Collectives* collectives,
                                                const cuda::DeviceTable& table, int32_t card,
                                                size_t bytes_max);

struct PlayOptions {
  int rounds = 40;                       // of ragged exchanges
  size_t ragged_bytes = 9000;            // a message's, at the most
  size_t large_bytes = size_t{4} << 20;  // of each message of the large ones
  int large_rounds = 4;
  size_t bytes_max() const;  // of a message
};

struct PlayTimes {
  double large_gb_per_s = 0;  // sent by one rank
  double small_us = 0;        // of an exchange of 8 KiB a peer, the median
};

// All ranks call it together. The first thing that is wrong; Internal: bytes are.
Status PlayExchanges(Collectives& collectives, RowMover& mover, const PlayOptions& options,
                     PlayTimes* times);

// One exchange of `bytes` with each rank, whose contents follow from `round`.
Status PlayEven(Collectives& collectives, RowMover& mover, int round, size_t bytes);

}  // namespace choir::gpu
