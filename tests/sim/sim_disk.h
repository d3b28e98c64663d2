// The audit log on a disk of the simulation: slow when told, full when told, and what was written
// stays when its router dies. Checks the log's promises record by record.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "router/admission/admission.h"
#include "router/audit/audit.h"
#include "tests/sim/sim_random.h"
#include "tests/sim/sim_runs.h"
#include "tests/sim/sim_time.h"

namespace choir::sim {

// What is on the disk of one request: one intent and one outcome, or one refusal, in one life of
// its router.
struct DiskRecord {
  uint64_t life = 0;
  std::string name;  // as its client names it
  bool intent = false;
  int outcomes = 0;
  int refusals = 0;
  int status = 0;  // of the outcome or the refusal
  bool recalled = false;
  Usage usage;
};

class SimDisk final : public Audit {
 public:
  // Of router number `router`.
  SimDisk(SimTime* time, SimRandom* random, std::string name, size_t router, SimRuns* runs)
      : time_(time), random_(random), name_(std::move(name)), router_(router), runs_(runs) {}

  // What admission says of itself; of each life of the router anew.
  void WatchAdmission(std::function<AdmissionStatus()> status) {
    admission_ = std::move(status);
    started_ = {};
  }

  void Intent(AuditIntent intent, Done done) override {
    Begin(intent);
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
    for (const auto& [name, run] : open_) runs_->End(run);
    open_.clear();
  }

  uint64_t life() const { return life_; }
  // By the request ids on record.
  const std::map<std::string, DiskRecord>& records() const { return records_; }
  const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  void Begin(const AuditIntent& intent) {
    const AuditRequest& request = intent.request;
    SimRun run{.router = router_,
               .tenant = request.tenant,
               .admission_class = *ParseAdmissionClass(request.admission_class),
               .sequences = intent.num_choices,
               .resumed = !intent.continues.empty(),
               .began_at = time_->Now()};
    run.arrived = run.began_at - std::chrono::duration_cast<Duration>(
                                     std::chrono::duration<double, std::milli>(intent.queue_ms));
    const auto c = static_cast<size_t>(run.admission_class);
    const uint64_t before = std::exchange(started_[c], admission_().classes[c].started);
    run.seated = started_[c] != before;
    if (started_[c] > before + 1) Complain(request, "a start without an intent before that");
    if (!open_.emplace(request.request_id, runs_->Begin(std::move(run))).second) {
      Complain(request, "two at once");
    }
  }
  void End(const std::string& name) {
    const auto it = open_.find(name);
    if (it == open_.end()) return;
    runs_->End(it->second);
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
    const auto [at, fresh] = records_.try_emplace(request.request_id, DiskRecord{.life = life_});
    DiskRecord& record = at->second;
    const bool beside = !request.client_request_id.empty();
    if (fresh) record.name = beside ? request.client_request_id : request.request_id;
    if (record.life != life_) Complain(request, "an id of before its start");
    return record;
  }
  void Complain(const AuditRequest& request, const char* what) {
    complaints_.push_back(fmt::format("{}: {} of {}", name_, what, request.request_id));
  }

  SimTime* const time_;
  SimRandom* const random_;
  const std::string name_;
  const size_t router_;
  SimRuns* const runs_;
  std::function<AdmissionStatus()> admission_;
  std::array<uint64_t, kNumAdmissionClasses> started_{};  // by admission, of each class
  std::map<std::string, size_t> open_;                    // the run of each
  uint64_t life_ = 0;
  uint64_t sequence_ = 0;
  MonoTime slow_until_{}, full_until_{}, free_{};
  std::map<std::string, DiskRecord> records_;
  std::vector<std::string> complaints_;
};

}  // namespace choir::sim
