// An Engine for tests of what stands around it: keeps what it is asked, computes nothing. The test
// says what a step gives by calling the sink of whoever it tests.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "worker/engine/engine.h"

namespace choir {

class FakeEngine final : public Engine {
 public:
  Status Submit(SequenceRequest request) override {
    {
      std::lock_guard lock(mu_);
      if (full_) return ResourceExhausted("the inbox is full");
      submitted_[request.id] = std::move(request);
    }
    changed_.notify_all();
    return absl::OkStatus();
  }
  void Cancel(SequenceId id) override {
    {
      std::lock_guard lock(mu_);
      cancelled_.insert(id);
    }
    changed_.notify_all();
  }
  EngineStats stats() const override { return {}; }
  void SetEpoch(std::shared_ptr<Collectives> collectives) override {
    std::lock_guard lock(mu_);
    epoch_ = std::move(collectives);
  }
  void OnEpochFailed(std::function<void(uint64_t, Status)> /*callback*/) override {}
  void OnDeviceFailed(std::function<void(Status)> /*callback*/) override {}
  void Run() override {}
  void Stop() override {}

  void SetFull(bool full) {
    std::lock_guard lock(mu_);
    full_ = full;
  }
  // Waits until `count` sequences were submitted in all; by the engine's ids.
  std::map<SequenceId, SequenceRequest> WaitForSubmits(size_t count) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return submitted_.size() >= count; });
    return submitted_;
  }
  std::set<SequenceId> WaitForCancels(size_t count) {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return cancelled_.size() >= count; });
    return cancelled_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  bool full_ = false;
  std::map<SequenceId, SequenceRequest> submitted_;
  std::set<SequenceId> cancelled_;
  std::shared_ptr<Collectives> epoch_;
};

}  // namespace choir
