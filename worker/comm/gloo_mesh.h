// Bytes between ranks of one epoch that run on different hosts, over Gloo's TCP pairs. The only
// pair of files that knows Gloo. What it carries is neither encrypted nor authenticated (Debian's
// Gloo has no TLS): the hosts of a group need a private network between them.
//
// Lasts one epoch: after the first error everything fails, and the mesh has to be destroyed soon.
// One owner thread calls Begin, Finish and Announce; the rest is for any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

struct MeshOptions {
  int rank = 0;
  int size = 0;
  std::vector<int> peers;  // the ranks of other hosts
  std::string address;     // numeric and this machine's: where the peers connect; ports are picked
  Duration connect_timeout = std::chrono::seconds(10);
};

// Called on threads of the mesh, one a peer; must not destroy the mesh.
struct MeshHooks {
  std::function<void(uint64_t step)> on_announce;
  std::function<void(const Status& reason)> on_abort;
  std::function<void(int peer, const std::string& why)> on_lost;
};

// What goes to and comes from one peer in one collective. Either may be empty, on both sides alike.
struct MeshTransfer {
  int peer = 0;
  std::span<const std::byte> send;
  std::span<std::byte> receive;
};

class GlooMesh {
 public:
  // Opens one listening socket a peer. NotFound when `address` is not this machine's.
  // REQUIRES: the process ignores SIGPIPE; Gloo writes to sockets that peers may have closed.
  static StatusOr<std::unique_ptr<GlooMesh>> Listen(const MeshOptions& options);
  virtual ~GlooMesh() = default;

  virtual const std::string& endpoint() const = 0;  // for all peers; opaque bytes
  // Once; by rank, those of ranks that are no peers are not looked at. Waits for the peers.
  virtual Status Connect(const std::vector<std::string>& endpoints) = 0;
  // Once, after Connect: from now on the hooks are called.
  virtual void Start(MeshHooks hooks) = 0;
  virtual void Stop() = 0;  // when it returns, no hook is called any more

  // Starts to move the bytes; the spans are in use until Finish returns, which it does when all
  // are there, something failed, or Interrupt was called.
  virtual Status Begin(std::span<const MeshTransfer> transfers) = 0;
  virtual Status Finish() = 0;
  virtual Status Announce(uint64_t step) = 0;  // to every peer

  virtual int waiting_for() const = 0;               // the peer that Finish waits for, or -1
  virtual void SendAbort(const Status& reason) = 0;  // to every peer, once; does not wait
  virtual void Interrupt() = 0;  // Connect, Begin, Finish and Announce end and fail from now on
};

}  // namespace choir
