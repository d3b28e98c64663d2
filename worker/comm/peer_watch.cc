#include "worker/comm/peer_watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace choir {
namespace {

Status Died(int rank, int64_t pid) { return Unavailable("rank {} (process {}) died", rank, pid); }

}  // namespace

PeerWatch::~PeerWatch() {
  for (const Peer& peer : peers_) {
    if (peer.fd >= 0) close(peer.fd);
  }
}

Status PeerWatch::Watch(const std::vector<int64_t>& pids, const std::vector<int>& names) {
  for (size_t r = 0; r < pids.size(); ++r) {
    const int64_t pid = pids[r];
    const int name = names.empty() ? static_cast<int>(r) : names[r];
    if (pid == getpid()) continue;
    if (pid <= 0 || pid > INT32_MAX)
      return InvalidArgument("rank {} has the process id {}", name, pid);
    Peer peer{name, pid, static_cast<int>(syscall(SYS_pidfd_open, pid, 0))};
    if (peer.fd < 0 &&
        (errno == ESRCH || (kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH))) {
      return Died(peer.rank, pid);
    }
    peers_.push_back(peer);
  }
  return Check();
}

Status PeerWatch::Check() const {
  for (const Peer& peer : peers_) {
    if (peer.fd >= 0) {
      pollfd waiting{.fd = peer.fd, .events = POLLIN, .revents = 0};
      if (poll(&waiting, 1, 0) == 1) return Died(peer.rank, peer.pid);
    } else if (kill(static_cast<pid_t>(peer.pid), 0) != 0 && errno == ESRCH) {
      return Died(peer.rank, peer.pid);
    }
  }
  return absl::OkStatus();
}

}  // namespace choir
