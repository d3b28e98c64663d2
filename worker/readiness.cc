#include "worker/readiness.h"

namespace choir {

WorkerStatus StatusOf(const WorkerFacts& facts) {
  WorkerStatus status{.epoch = facts.group.epoch};
  status.draining = facts.draining || facts.group.group_drain != DrainStage::kNone;
  if (!facts.loading.empty()) {
    status.reason = facts.loading;
    if (!facts.failed_before.empty()) {
      status.reason += "; the try before this one: " + facts.failed_before;
    }
  } else if (!facts.group.serving) {
    status.reason = facts.group.reason.empty() ? "joining the group" : facts.group.reason;
  } else if (facts.self_test == SelfTest::kFailed) {
    status.reason = "the self-test failed: " + facts.self_test_error;
  } else if (facts.self_test == SelfTest::kPending) {
    status.reason = "the self-test runs";
  } else {
    status.ready = true;
  }
  if (status.draining) {
    status.reason = facts.draining ? "draining" : "draining: another rank of the group leaves";
  }
  if (!facts.device_error.empty()) {
    status.ready = false;
    status.reason = "the device failed: " + facts.device_error;
  }
  return status;
}

Status ProgressWatch::Observe(uint64_t steps, uint32_t sequences, bool serving, MonoTime now) {
  const bool busy = serving && sequences > 0;
  if (!busy || !busy_ || steps != steps_) since_ = now;
  busy_ = busy;
  steps_ = steps;
  if (now - since_ <= limit_) return absl::OkStatus();
  return Unavailable("no step has ended for {:.0f} s, {} sequences wait", Seconds(now - since_),
                     sequences);
}

}  // namespace choir
