// The audit log on a disk of the simulation: slow when told, full when told, and what was written
// stays when its router dies. Checks the log's promises record by record.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "router/audit/audit.h"
#include "tests/sim/sim_random.h"
#include "tests/sim/sim_time.h"

namespace choir::sim {

// What is on the disk of one request in one life of its router: one intent and one outcome, or one
// refusal.
struct DiskRecord {
  uint64_t life = 0;
  bool intent = false;
  int outcomes = 0;
  int refusals = 0;
  int status = 0;  // of the outcome or the refusal
  bool recalled = false;
  Usage usage;
};

// Requests of each tenant between intent and outcome, on all routers together.
struct RunningTenants {
  std::map<std::string, int64_t> now, most;
};

class SimDisk final : public Audit {
 public:
  SimDisk(SimTime* time, SimRandom* random, std::string name, RunningTenants* running)
      : time_(time), random_(random), name_(std::move(name)), running_(running) {}

  void Intent(AuditIntent intent, Done done) override {
    const std::string& tenant = intent.request.tenant;
    open_.emplace(intent.request.request_id, tenant);
    int64_t& most = running_->most[tenant];
    most = std::max(most, ++running_->now[tenant]);
    Write(std::move(done), [this, intent = std::move(intent)] {
      DiskRecord& record = RecordOf(intent.request);
      if (record.intent || record.refusals != 0) Complain(intent.request, "a second intent");
      record.intent = true;
    });
  }
  void Outcome(AuditOutcome outcome, Done done) override {
    End(outcome.request.request_id);
    Write(std::move(done), [this, outcome = std::move(outcome)] {
      DiskRecord& record = RecordOf(outcome.request);
      if (!record.intent || record.outcomes != 0) Complain(outcome.request, "a stray outcome");
      ++record.outcomes;
      record.status = outcome.status;
      record.usage = outcome.usage;
      record.recalled = outcome.recalled;
    });
  }
  void Refused(AuditRefusal refusal, Done done) override {
    End(refusal.request.request_id);
    Write(std::move(done), [this, refusal = std::move(refusal)] {
      DiskRecord& record = RecordOf(refusal.request);
      if (record.intent || record.refusals != 0) Complain(refusal.request, "a stray refusal");
      ++record.refusals;
      record.status = refusal.status;
    });
  }
  void Admin(std::string /*event*/, std::string /*detail*/) override {}

  void SlowUntil(MonoTime when) { slow_until_ = std::max(slow_until_, when); }
  void FullUntil(MonoTime when) { full_until_ = std::max(full_until_, when); }
  bool was_full() const { return full_until_ != MonoTime{}; }

  // The router died: what it still waits for is not told to anybody; what lay on its way is lost.
  void Forget() {
    ++life_;
    for (const auto& [name, tenant] : open_) --running_->now[tenant];
    open_.clear();
  }

  uint64_t life() const { return life_; }
  const std::map<std::string, std::vector<DiskRecord>>& records() const { return records_; }
  const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  void End(const std::string& name) {
    const auto it = open_.find(name);
    if (it == open_.end()) return;
    --running_->now[it->second];
    open_.erase(it);
  }
  template <typename F>
  void Write(Done done, F write) {
    const MonoTime now = time_->Now();
    const Duration delay = now < slow_until_ ? random_->Millis(5, 400) : random_->Micros(50, 1500);
    free_ = std::max(free_, now + delay);  // one after the other
    time_->At(free_, [this, life = life_, done = std::move(done), write = std::move(write)] {
      if (life != life_) return;
      if (time_->Now() < full_until_) return done(ResourceExhausted("the disk is full"));
      write();
      done(fmt::format("{}:{}", name_, ++sequence_));
    });
  }
  DiskRecord& RecordOf(const AuditRequest& request) {
    std::vector<DiskRecord>& lives = records_[request.request_id];
    if (lives.empty() || lives.back().life != life_) lives.push_back({.life = life_});
    return lives.back();
  }
  void Complain(const AuditRequest& request, const char* what) {
    complaints_.push_back(fmt::format("{}: {} of {}", name_, what, request.request_id));
  }

  SimTime* const time_;
  SimRandom* const random_;
  const std::string name_;
  RunningTenants* const running_;
  std::map<std::string, std::string> open_;  // the tenant of each
  uint64_t life_ = 0;
  uint64_t sequence_ = 0;
  MonoTime slow_until_{}, full_until_{}, free_{};
  std::map<std::string, std::vector<DiskRecord>> records_;
  std::vector<std::string> complaints_;
};

}  // namespace choir::sim
