// What the router knows of its workers at one moment: an immutable value that may be handed to any
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "router/base/types.h"

namespace choir {

enum class WorkerPhase {
  kConnecting,  // no stream yet, or no hello on it
  kNotReady,    // connected; says why it cannot serve yet
  kReady,
  kDraining,  // finishes what it has, takes nothing new
  kLost,      // had a stream and lost it; being reconnected
  kRefused,   // another protocol, model or numerics: never used
};
inline constexpr WorkerPhase kWorkerPhases[] = {WorkerPhase::kConnecting, WorkerPhase::kNotReady,
                                                WorkerPhase::kReady,      WorkerPhase::kDraining,
                                                WorkerPhase::kLost,       WorkerPhase::kRefused};
const char* WorkerPhaseName(WorkerPhase phase);

// What a worker says of itself once a connection.
struct WorkerIdentity {
  uint32_t protocol_version = 0;
  std::string worker_id;  // "g0r1"; the address until it is known
  std::string build;
  uint32_t group = 0;
  uint32_t rank = 0;
  uint32_t group_size = 0;
  std::string model_id;
  std::string numerics_id;
  uint32_t context_length = 0;
  uint32_t vocab_size = 0;
  uint64_t kv_tokens_max = 0;
  uint64_t incarnation = 0;
};

struct WorkerLoad {
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t kv_tokens_used = 0;
  uint64_t waiting_tokens = 0;
};

struct WorkerView {
  WorkerIndex index;
  std::string address;
  std::shared_ptr<const WorkerIdentity> identity;  // never null
  WorkerPhase phase = WorkerPhase::kConnecting;
  uint64_t connection = 0;  // counts the streams to this address
  uint64_t epoch = 0;
  std::string reason;  // why it is not ready
  WorkerLoad reported;
  uint64_t assigned_sequences = 0;  // by this router
  uint64_t assigned_tokens = 0;     // of those, not yet answered with a first token
};

struct Snapshot {
  uint64_t version = 0;
  std::vector<WorkerView> workers;

  size_t NumReady() const {
    size_t n = 0;
    for (const WorkerView& w : workers) n += w.phase == WorkerPhase::kReady;
    return n;
  }
};

}  // namespace choir
