// The mapped segment of shm_collectives.h; private to worker/comm.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>

#include "common/base/status.h"
#include "worker/comm/shm_collectives.h"
#include "worker/comm/shm_layout.h"

namespace choir::shm {

// A mapped segment; unmapped with the object.
class Mapping {
 public:
  Mapping(std::byte* base, size_t bytes) : base_(base), bytes_(bytes) {}
  ~Mapping() { munmap(base_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  Header& header() const { return *reinterpret_cast<Header*>(base_); }
  RankSlot& slot(size_t rank) const { return *reinterpret_cast<RankSlot*>(base_ + SlotAt(rank)); }
  Ring& ring(size_t from, size_t to) const {
    return *reinterpret_cast<Ring*>(base_ + RingAt(header().num_ranks, from, to));
  }
  std::byte* data(size_t from, size_t to) const {
    return base_ + DataAt(header().num_ranks, header().ring_bytes, from, to);
  }

 private:
  std::byte* const base_;
  const size_t bytes_;
};

// Opens and checks the segment that `join` names.
StatusOr<std::unique_ptr<Mapping>> OpenSegment(const ShmJoin& join);

}  // namespace choir::shm
