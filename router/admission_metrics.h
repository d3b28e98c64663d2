// The metrics of admission: a series for each class. Thread-safe.
#pragma once

#include <array>
#include <map>
#include <string>

#include "common/metrics/metrics.h"
#include "router/admission/admission.h"

namespace choir {

class AdmissionMetrics {
 public:
  explicit AdmissionMetrics(Metrics* metrics);

  // A request is let run, so long after it was ready to.
  void OnTurn(const Permit& permit, double waited_seconds);
  // `rule` of the error that a request ends with; those that are no rule of a class are not
  // counted.
  void OnRefused(const std::string& rule);
  void Publish(const AdmissionStatus& status);

 private:
  struct Class {
    prometheus::Gauge* depth = nullptr;
    prometheus::Gauge* running = nullptr;
    prometheus::Gauge* waiting_tokens = nullptr;
    prometheus::Histogram* wait_seconds = nullptr;
    prometheus::Counter* aged = nullptr;
  };

  std::array<Class, kNumAdmissionClasses> classes_;
  std::map<std::string, prometheus::Counter*> refused_;  // by rule
};

}  // namespace choir
