// What the router knows of one worker, and of all of them at one moment: immutable values that may
// be handed to any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "router/base/types.h"
#include "router/membership/circuit_breaker.h"

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
  uint32_t kv_block_tokens = 0;  // of a block that can be found again; 0: none can
  uint32_t running_max = 0;      // sequences that it runs at once; 0: it does not say
  uint64_t incarnation = 0;
};

struct WorkerLoad {
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t kv_tokens_used = 0;
  uint64_t waiting_tokens = 0;
  uint64_t computed_tokens = 0;  // since its start
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
  BreakerState breaker = BreakerState::kClosed;
  bool takes_work = true;  // as its breaker says

  // It may be given a sequence.
  bool Serves() const { return phase == WorkerPhase::kReady && takes_work; }
};

// Work in flight in units of one prompt token: what a router-side estimate and the worker's own
// report agree to be the larger. A running sequence weighs as much as kDecodeWeight prompt tokens.
uint64_t LoadOf(const WorkerView& worker);
inline constexpr uint64_t kDecodeWeight = 256;

// What the ranks that may be given work have, all together.
struct RankCapacity {
  uint64_t ranks = 0;
  uint64_t silent = 0;     // of them, those that do not say how many sequences they run at once
  uint64_t seats = 0;      // that many, of the others
  uint64_t free = 0;       // seats
  uint64_t over = 0;       // sequences beyond its seats, of each rank
  uint64_t kv_free = 0;    // tokens
  uint64_t kv_silent = 0;  // ranks that do not say how many tokens they hold

  RankCapacity& operator+=(const RankCapacity& other);
  RankCapacity& operator-=(const RankCapacity& other);
};
RankCapacity CapacityOf(const WorkerView& worker);

// All of them, copied: for people. What decides reads RankTable.
struct Snapshot {
  std::vector<WorkerView> workers;
};

}  // namespace choir
