// Collectives among the ranks of one epoch of a group. A communicator is generation-numbered and
// disposable: the first error or timeout kills it, every later call fails at once with the same
// error, and the group re-forms as the next generation. Implementations: local (ranks are threads
// of one process), shm (processes of one host), single (one rank, does nothing). Thread: one owner
// thread per rank calls everything but Wake and Abort, in the same order on every rank. All byte
// buffers are the caller's and are free again on return.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

class DeviceCollectives;

class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual uint64_t generation() const = 0;
  virtual std::string name() const = 0;  // "local", "shm", "single"

  virtual Status Barrier() = 0;
  // out: size() * in.size() bytes, by rank. in.size() is the same on every rank and at most 4 KiB.
  virtual Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) = 0;
  // send: the bytes for rank 0, 1, ... one after the other, send_bytes[r] each; received likewise.
  // REQUIRES: recv_bytes[r] == what rank r sends here; recv holds their sum.
  virtual Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                           std::span<std::byte> recv, std::span<const size_t> recv_bytes) = 0;

  // Doorbell, so that idle ranks cost nothing. Announce(step): "I have work and am about to enter
  // step `step`". WaitForAnnounce: true once a peer has announced `step` or a later one; false
  // after `timeout`, after Wake(), or at once when the communicator is dead.
  virtual void Announce(uint64_t step) = 0;
  virtual bool WaitForAnnounce(uint64_t step, Duration timeout) = 0;
  virtual void Wake() = 0;  // any thread: ends the running or next WaitForAnnounce
  virtual void Abort(const Status& reason) = 0;  // any thread: kills this communicator on all ranks
  virtual Status status() const = 0;             // why it is dead, or OK; any thread
  // For an owner that waits for something else than these collectives: dies if a peer is seen to
  // have died, which otherwise only waits of its own find. Returns status().
  virtual Status LookAfterPeers() { return status(); }

  // Null: rows travel through the hosts' memory. Lives as long as the collectives.
  virtual DeviceCollectives* device() { return nullptr; }
};

struct CollectivesOptions {
  Duration timeout =
      std::chrono::seconds(30);         // of one collective; a dead peer is found much sooner
  size_t ring_bytes = size_t{4} << 20;  // per pair of ranks, 4 KiB..1 GiB
};

}  // namespace choir
