// What an op runs on. On the CPU: the rank's thread team and a scratch area; ops run to completion.
// On a GPU: the native stream; ops only enqueue. Non-owning; the worker's Device owns all of it.
#pragma once

#include <cstddef>
#include <span>

#include "common/runtime/thread_team.h"

namespace choir {

struct Stream {
  ThreadTeam* team = nullptr;
  std::span<std::byte> workspace;  // 64-byte aligned; at least KernelSet::WorkspaceBytes(limits)
  void* native = nullptr;          // cudaStream_t on a GPU
};

}  // namespace choir
