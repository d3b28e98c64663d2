// Who ran where and when, by what routers put on record: from intent to outcome, or to the death of
// the router. A request begins with its intent in the same moment in which admission lets it run,
// and ends with its outcome in the same moment in which it gives its places and its lease back.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "router/base/admission_class.h"

namespace choir::sim {

struct SimRun {
  size_t router = 0;
  std::string tenant;
  AdmissionClass admission_class = AdmissionClass::kDefault;
  uint64_t sequences = 0;
  bool resumed = false;  // goes on with what another router had let run
  bool seated = false;   // it has places; else its answer was known
  MonoTime arrived;      // at its router
  MonoTime began_at;
  uint64_t began = 0, ended = UINT64_MAX;  // in the order of everything here

  bool OpenAt(uint64_t order) const { return began <= order && order < ended; }
};

class SimRuns {
 public:
  explicit SimRuns(size_t routers) : sequences_(routers) {}

  // Its name, for End.
  size_t Begin(SimRun run) {
    run.began = ++order_;
    if (run.seated) At(run) += run.sequences;
    all_.push_back(std::move(run));
    return all_.size() - 1;
  }
  void End(size_t name) {
    SimRun& run = all_[name];
    run.ended = ++order_;
    if (run.seated) At(run) -= run.sequences;
  }

  const std::vector<SimRun>& all() const { return all_; }
  // That have places now.
  uint64_t sequences(size_t router, AdmissionClass c) const {
    return sequences_[router][static_cast<size_t>(c)];
  }

 private:
  uint64_t& At(const SimRun& run) {
    return sequences_[run.router][static_cast<size_t>(run.admission_class)];
  }

  std::vector<SimRun> all_;
  uint64_t order_ = 0;
  std::vector<std::array<uint64_t, kNumAdmissionClasses>> sequences_;
};

}  // namespace choir::sim
