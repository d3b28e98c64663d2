// Collectives among processes of one host: a shared segment with one byte ring per ordered pair of
// ranks. The leader makes the segment (a sealed memfd: no name in a file system, gone with its last
// user) and gives its name to the ranks, which map it. A rank that waits spins boundedly, then
// sleeps in a futex and looks after its peers' lives every 20 ms; a dead process kills the
// communicator for all. Needs one user and one PID namespace for all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/comm/collectives.h"

namespace choir {

// The leader's handle. The name can be opened as long as this lives; those who joined keep the
// memory.
class ShmSegment {
 public:
  // num_ranks 1..64. ResourceExhausted when the memory cannot be had.
  static StatusOr<std::unique_ptr<ShmSegment>> Create(int num_ranks, uint64_t generation,
                                                      const CollectivesOptions& options);
  ~ShmSegment();
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;

  const std::string& name() const { return name_; }  // "/proc/PID/fd/N"

 private:
  ShmSegment(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  const int fd_;
  const std::string name_;
};

struct ShmJoin {
  std::string name;  // of the leader's segment
  int rank = 0;
  uint64_t generation = 0;
  std::vector<int64_t> pids;   // of the ranks' processes, by rank; threads of one process share one
  CollectivesOptions options;  // ring_bytes is the segment's
  std::vector<int> names;      // what messages call the ranks; empty: 0, 1, ...
};

// Does not wait for the others. InvalidArgument: not a segment of this generation and size;
// Unavailable: it cannot be opened, or a peer is dead already.
StatusOr<std::unique_ptr<Collectives>> JoinShmCollectives(const ShmJoin& join);

}  // namespace choir
