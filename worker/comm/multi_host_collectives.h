// Collectives of a group whose ranks run on several hosts: those of one host use its collectives
// (shared memory), pairs on different hosts exchange through a GlooMesh. Every byte goes straight
// from its rank to the other, unchanged, so results have the same bits as on one host. The death of
// any part, here or there, is the death of all, with the first reason that became known.
#pragma once

#include <memory>
#include <vector>

#include "worker/comm/collectives.h"
#include "worker/comm/gloo_mesh.h"

namespace choir {

struct MultiHostParts {
  int rank = 0;
  int size = 0;
  uint64_t generation = 0;
  Duration timeout = std::chrono::seconds(30);  // of one collective
  std::vector<int> local_ranks;                 // of this host, ascending, this rank among them
  std::unique_ptr<Collectives> local;           // whose rank i is local_ranks[i]
  std::unique_ptr<GlooMesh> mesh;               // connected to all others, not started
};

std::unique_ptr<Collectives> MakeMultiHostCollectives(MultiHostParts parts);

}  // namespace choir
