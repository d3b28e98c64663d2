// Whether a request may run now, must wait, or is refused: classes with floors, ceilings, queues
// and ageing; within a class tenants share by work (fair_queue.h). A pure state machine: time and
// what the ranks have free are arguments. Called by the router's owner thread only.
//
// A request has a Permit from Enter, before anything of its prompt is read, to its end, whichever
// that is. In between it waits for its turn (Wait, Next) and runs. Bounds: requests in all, and
// those that wait in each class. O(log requests) a call.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "router/admission/admission_config.h"
#include "router/admission/drain_rate.h"
#include "router/admission/fair_queue.h"
#include "router/base/api_error.h"

namespace choir {

// What the ranks that take work have, as they report it and this router counts it.
struct Capacity {
  uint64_t ranks = 0;
  uint64_t seats = 0;    // sequences that they run at once
  bool bounded = false;  // false: one of them does not say how many, and nothing waits here
  uint64_t free = 0;     // of the seats
  uint64_t over = 0;     // sequences that wait at ranks without a free one
  uint64_t kv_free = UINT64_MAX;  // tokens
};

struct AdmitRequest {
  uint64_t number = 0;  // the caller's name for it, unique among those that hold permits
  std::string tenant;
  AdmissionClass admission_class = AdmissionClass::kDefault;
  MonoTime deadline = MonoTime::max();
  uint64_t max_tokens = UINT64_MAX;  // of a choice, if it is known
  bool resumed = false;  // it ran elsewhere: it neither waits nor is refused but for the bound
};

// In tokens.
struct RequestWork {
  uint64_t prompt = 0;
  uint64_t output_max = 0;  // of all choices together
  uint64_t choices = 1;

  uint64_t tokens() const { return prompt + output_max; }
};

struct UsedWork {
  uint64_t tokens = 0;       // computed
  double output_tokens = 0;  // a choice
  bool ended_well = false;
};

// What would become of a request that came now.
struct AdmissionOutlook {
  std::optional<ApiError> refusal;     // else:
  bool runs = false;                   // at once, or:
  uint64_t place = 0;                  // among those of its class that wait; 1: it is next
  std::optional<double> wait_seconds;  // at the rate measured; nullopt: not known
};

class Admission;

// One request's place. Given back by End, or by its destruction as if nothing had been used. Dies
// before its Admission.
class Permit {
 public:
  ~Permit();
  Permit(const Permit&) = delete;
  Permit& operator=(const Permit&) = delete;

  bool may_run() const { return stage_ >= Stage::kMayRun; }
  // Its sequences are counted by the ranks from now on. REQUIRES: may_run()
  void Placed();
  // Once.
  void End(const UsedWork& used, MonoTime now);
  AdmissionClass admission_class() const { return asked_.admission_class; }
  // It was let before others because its class had waited for too long.
  bool aged() const { return aged_; }

 private:
  friend class Admission;
  enum class Stage { kEntered, kWaiting, kMayRun, kRunning, kEnded };
  struct Place : FairQueue::Entry {
    Permit* permit = nullptr;
  };

  Permit(Admission* admission, const AdmitRequest& request, double weight, MonoTime now);

  Admission* const admission_;
  AdmitRequest asked_;  // with its work, once that is known
  const double weight_;
  Stage stage_ = Stage::kEntered;
  bool aged_ = false;
  RequestWork work_;
  MonoTime entered_, started_;
  MonoTime expires_;  // while it waits
  Place place_;
};

struct AdmissionStatus {
  struct Class {
    uint64_t entered = 0;  // their prompts are being read
    uint64_t waiting = 0;
    uint64_t waiting_tenants = 0;
    uint64_t waiting_tokens = 0;
    uint64_t running = 0;                // requests
    uint64_t running_sequences = 0;      // placed, or about to be
    uint64_t queue = 0, floor = 0;       // as configured
    std::optional<uint64_t> ceiling;     // nullopt: none, as it is not known how much there is
    uint64_t started = 0, aged = 0;      // since the start
    std::optional<double> wait_seconds;  // that a tenant's first request would wait now
  };
  std::array<Class, kNumAdmissionClasses> classes;
  Capacity capacity;
  uint64_t held = 0, held_max = 0;
  // Requests, since the start: entered = ended + those that are there.
  uint64_t entered = 0, ended = 0, there = 0;
  // Tokens: charged = settled + outstanding.
  uint64_t charged_tokens = 0, settled_tokens = 0, outstanding_tokens = 0;

  int64_t Difference() const {
    return static_cast<int64_t>(entered) - static_cast<int64_t>(ended + there);
  }
  int64_t WorkDifference() const {
    return static_cast<int64_t>(charged_tokens) -
           static_cast<int64_t>(settled_tokens + outstanding_tokens);
  }
};

class Admission {
 public:
  // At most `requests_max` permits at once; a sixteenth of them is kept for each class, so that a
  // flood of one leaves others a way in.
  Admission(AdmissionConfig config, uint64_t requests_max);
  ~Admission();

  // Permits keep the class that they have; all else holds at once.
  void SetConfig(AdmissionConfig config);
  void SetCapacity(const Capacity& capacity) { capacity_ = capacity; }
  // Of the configuration.
  AdmissionClass ClassOf(const std::string& tenant) const;

  // Whether there is any use in reading its prompt.
  std::variant<std::unique_ptr<Permit>, ApiError> Enter(const AdmitRequest& request, MonoTime now);
  // It is ready to run: it may at once (may_run), or when Next says so. An error refuses it. Call
  // Next afterwards. REQUIRES: just entered
  std::optional<ApiError> Wait(Permit& permit, const RequestWork& work, MonoTime now);
  // The number of a request that may run from now on; nullopt: nobody may. Call until then after
  // Wait, and whenever the capacity or the time has changed.
  std::optional<uint64_t> Next(MonoTime now);
  // Those that have waited as long as one may, and why they are refused.
  std::vector<std::pair<uint64_t, ApiError>> TakeExpired(MonoTime now);
  // Nothing is changed by it.
  AdmissionOutlook Foresee(const AdmitRequest& request, const RequestWork& work,
                           MonoTime now) const;
  bool anybody_waits() const { return !expiries_.empty(); }
  // When to call TakeExpired and Next, though nothing else happened.
  MonoTime NextTimer(MonoTime now) const;

  AdmissionStatus status(MonoTime now) const;

 private:
  friend class Permit;
  struct ClassState {
    FairQueue queue;
    uint64_t entered = 0;
    uint64_t running = 0;
    uint64_t running_sequences = 0;
    // Others were let run while it waited, or a place is kept from it that has nothing running.
    std::optional<MonoTime> passed_over_since;
    DrainRate drain;
    // Each tenant's part of it, for those that wait: what others get that come later shows here.
    std::unordered_map<std::string, DrainRate> shares;
    RunTimes run_times;
    uint64_t started = 0, aged = 0;
  };
  struct Choice {
    AdmissionClass admission_class;
    bool aged = false;
  };
  // One that would be the first of its class to wait.
  struct Guest {
    AdmissionClass admission_class;
    RequestWork work;
  };

  ClassState& At(AdmissionClass c) { return classes_[static_cast<size_t>(c)]; }
  const ClassState& At(AdmissionClass c) const { return classes_[static_cast<size_t>(c)]; }

  uint64_t HeldBy(AdmissionClass c) const;
  bool AnyPermitLeft(const AdmitRequest& request) const;
  uint64_t Places() const { return capacity_.seats + config_.ahead * capacity_.ranks; }
  int64_t FreePlaces() const;
  uint64_t KeptFor(AdmissionClass c) const;
  uint64_t KeptFromOthersThan(AdmissionClass c) const;
  bool UnderCeiling(AdmissionClass c, uint64_t sequences) const;
  uint64_t RoomOf(AdmissionClass c) const;
  const RequestWork* FirstOf(AdmissionClass c, const Guest* guest) const;
  bool FitsKv(const RequestWork& work) const;
  std::optional<Choice> Choose(MonoTime now, const Guest* guest = nullptr) const;
  std::optional<AdmissionClass> ChooseAged(int64_t free, const Guest* guest, MonoTime now) const;
  double WeightOf(const std::string& tenant) const;
  std::optional<double> WaitOf(const AdmitRequest& request, MonoTime now) const;
  void LeaveShare(const Permit& permit);
  std::optional<ApiError> CheckRoom(const AdmitRequest& request, MonoTime now) const;
  std::optional<ApiError> CheckDeadline(const AdmitRequest& request, MonoTime now) const;
  ApiError QueueFull(AdmissionClass c, MonoTime now) const;
  void NotePassedOver(std::optional<AdmissionClass> chosen, MonoTime now);
  void StartRunning(Permit& permit, MonoTime now);
  void StopWaiting(Permit& permit, MonoTime now);
  void End(Permit& permit, const UsedWork& used, MonoTime now);

  AdmissionConfig config_;
  const uint64_t requests_max_;
  Capacity capacity_;
  std::array<ClassState, kNumAdmissionClasses> classes_;
  std::map<std::pair<MonoTime, uint64_t>, Permit*> expiries_;  // of those that wait
  uint64_t held_ = 0;                                          // permits
  uint64_t sequences_ = 0;                                     // of those that may run
  uint64_t unplaced_sequences_ = 0;                            // of them, not yet counted by a rank
  uint64_t unplaced_tokens_ = 0;                               // their prompts
  uint64_t entered_ = 0, ended_ = 0, charged_ = 0, settled_ = 0;
  MonoTime last_now_{};
};

}  // namespace choir
