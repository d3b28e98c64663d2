// Whether a worker is ready, and if not, why: one pure function of what is known. And whether it
// lives: the progress of its steps.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "worker/rpc/group_client.h"
#include "worker/rpc/worker_server.h"

namespace choir {

enum class SelfTest : uint8_t { kPending, kPassed, kFailed };

struct WorkerFacts {
  std::string loading = "loading the model";  // what it does before the engine is there; "": loaded
  std::string failed_before;  // why the try to start before this one failed; "": there was none
  GroupStatus group;
  SelfTest self_test = SelfTest::kPending;
  std::string self_test_error;
  bool draining = false;     // this process was told to
  std::string device_error;  // what computes has failed: the process is about to end
};

WorkerStatus StatusOf(const WorkerFacts& facts);

// Not alive: there is work and an epoch, but no step has ended for too long. Called now and then,
// by one thread at a time.
class ProgressWatch {
 public:
  explicit ProgressWatch(Duration limit) : limit_(limit) {}
  Status Observe(uint64_t steps, uint32_t sequences, bool serving, MonoTime now);

 private:
  const Duration limit_;
  uint64_t steps_ = 0;
  bool busy_ = false;
  MonoTime since_{};  // of the last progress
};

}  // namespace choir
