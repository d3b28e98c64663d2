// Admission with ranks that are a number of seats, and requests by name.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "router/admission/admission.h"
#include "tests/support/sim_clock.h"

namespace choir {

class AdmissionWorld {
 public:
  struct Asked {
    std::string tenant = "t";
    AdmissionClass admission_class = AdmissionClass::kDefault;
    RequestWork work = {.prompt = 10, .output_max = 90, .choices = 1};
    MonoTime deadline = MonoTime::max();
    bool resumed = false;
  };

  explicit AdmissionWorld(AdmissionConfig config = {}, uint64_t requests_max = 1000)
      : admission(std::move(config), requests_max) {
    Tell();
  }

  // Enters, waits, and runs if it may. 0: refused, `error` says why.
  uint64_t Ask(const Asked& asked) {
    Tell();
    const uint64_t number = ++last_;
    auto entered = admission.Enter(RequestOf(asked, number), clock.Now());
    if (auto* refused = std::get_if<ApiError>(&entered)) {
      error = *refused;
      return 0;
    }
    Held& held = held_[number];
    held.permit = std::move(std::get<std::unique_ptr<Permit>>(entered));
    held.asked = asked;
    if (auto refused = admission.Wait(*held.permit, asked.work, clock.Now())) {
      error = *refused;
      held_.erase(number);
      return 0;
    }
    if (held.permit->may_run()) Place(number);
    Turn();
    return number;
  }
  AdmissionOutlook Foresee(const Asked& asked) {
    Tell();
    return admission.Foresee(RequestOf(asked, 0), asked.work, clock.Now());
  }
  // Lets run whoever may; their numbers, in order.
  std::vector<uint64_t> Turn() {
    std::vector<uint64_t> let;
    while (true) {
      Tell();
      const auto next = admission.Next(clock.Now());
      if (!next) break;
      Place(*next);
      let.push_back(*next);
    }
    return let;
  }
  void End(uint64_t number, const UsedWork& used = {.tokens = 100}) {
    held_.at(number).permit->End(used, clock.Now());
    held_.erase(number);
    Turn();
  }
  void Drop(uint64_t number) {
    held_.erase(number);
    Turn();
  }
  std::vector<std::pair<uint64_t, ApiError>> Expire() {
    auto expired = admission.TakeExpired(clock.Now());
    for (const auto& [number, why] : expired) held_.erase(number);
    return expired;
  }
  bool runs(uint64_t number) const {
    const auto it = held_.find(number);
    return it != held_.end() && it->second.permit->may_run();
  }
  const Permit& permit(uint64_t number) const { return *held_.at(number).permit; }
  const Asked& asked(uint64_t number) const { return held_.at(number).asked; }
  std::vector<uint64_t> numbers() const {
    std::vector<uint64_t> all;
    for (const auto& [number, held] : held_) all.push_back(number);
    return all;
  }
  uint64_t taken() const {
    uint64_t sum = 0;
    for (const auto& [number, held] : held_) sum += runs(number) ? held.asked.work.choices : 0;
    return sum;
  }
  AdmissionStatus::Class of(AdmissionClass c) const {
    return admission.status(clock.Now()).classes[static_cast<size_t>(c)];
  }
  void ExpectEven() const {
    const AdmissionStatus status = admission.status(clock.Now());
    EXPECT_EQ(status.Difference(), 0);
    EXPECT_EQ(status.WorkDifference(), 0);
  }

  SimClock clock;
  Capacity ranks = {.ranks = 1, .seats = 4, .bounded = true};
  ApiError error;
  Admission admission;

 private:
  static AdmitRequest RequestOf(const Asked& asked, uint64_t number) {
    return {.number = number,
            .tenant = asked.tenant,
            .admission_class = asked.admission_class,
            .deadline = asked.deadline,
            .resumed = asked.resumed};
  }

  struct Held {
    std::unique_ptr<Permit> permit;
    Asked asked;
  };

  void Place(uint64_t number) { held_.at(number).permit->Placed(); }
  void Tell() {
    Capacity now = ranks;
    const uint64_t there = taken();
    now.free = ranks.seats - std::min(ranks.seats, there);
    now.over = there - std::min(ranks.seats, there);
    uint64_t tokens = 0;
    for (const auto& [number, held] : held_) tokens += runs(number) ? held.asked.work.prompt : 0;
    if (ranks.kv_free != UINT64_MAX) now.kv_free = ranks.kv_free - std::min(ranks.kv_free, tokens);
    admission.SetCapacity(now);
  }

  std::map<uint64_t, Held> held_;
  uint64_t last_ = 0;
};

}  // namespace choir
