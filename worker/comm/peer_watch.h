// Tells whether the processes of one's peers are still alive: by pidfd, so that a reused process id
// is never taken for the peer; by kill(pid, 0) where the kernel has no pidfds. Owner thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/status.h"

namespace choir {

class PeerWatch {
 public:
  PeerWatch() = default;
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  // `pids` by rank; this process's own id is not watched. `names`: what messages call the ranks;
  // empty: 0, 1, ... Unavailable when one is dead already.
  Status Watch(const std::vector<int64_t>& pids, const std::vector<int>& names = {});
  // Unavailable, with rank and process, once a peer has died. A few microseconds.
  Status Check() const;

 private:
  struct Peer {
    int rank = 0;
    int64_t pid = 0;
    int fd = -1;  // -1: no pidfd
  };
  std::vector<Peer> peers_;
};

}  // namespace choir
