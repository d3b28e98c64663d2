// A process's metrics over prometheus-cpp. Each part has one <part>_metrics.{h,cc} that registers
// its families here and keeps the references: never look a series up on a hot path. Thread-safe.
// The registry adds choir_build_info, choir_start_time_seconds, choir_start_failed and process_*
// (cpu, memory, fds, start).
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace choir {

using MetricLabels = prometheus::Labels;

class Metrics {
 public:
  explicit Metrics(const std::string& part);  // "router", "worker", "gateway"

  // One family per name; `help` is shown to people. Adding the same name and labels returns the
  // same series.
  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const MetricLabels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const MetricLabels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const std::vector<double>& buckets,
                                   const MetricLabels& labels = {});

  // Caps a label that clients can influence: the first `max` distinct values as they are, then
  // "other".
  std::string Capped(const std::string& family, const std::string& value, size_t max = 100);

  // Of a process that stays although it could not start, until a try succeeds; false until it is
  // said.
  void SetStartFailed(bool failed);

  std::string Text();  // Prometheus text format

  // 1 ms .. 60 s; 10 us .. 10 s; ratios 0..1.
  static const std::vector<double>& RequestSeconds();
  static const std::vector<double>& StepSeconds();

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::mutex mu_;  // guards the maps
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counters_;
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauges_;
  std::map<std::string, prometheus::Family<prometheus::Histogram>*> histograms_;
  std::map<std::string, std::set<std::string>> seen_;
  void RefreshProcess();
};

}  // namespace choir
