#include "common/metrics/metrics.h"

#include <dirent.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "common/base/version.h"

namespace choir {
namespace {

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

double OpenFileCount() {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  int count = -3;  // ".", ".." and the directory itself
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

}  // namespace

Metrics::Metrics(const std::string& part) : registry_(std::make_shared<prometheus::Registry>()) {
  Gauge("choir_build_info", "Always 1; the labels say which build this is.",
        {{"version", kVersion}, {"part", part}})
      .Set(1);
  SetStartFailed(false);
  const double now = WallSeconds();
  Gauge("choir_start_time_seconds", "Unix time at which this process started.").Set(now);
  Gauge("process_start_time_seconds", "Unix time at which this process started.").Set(now);
}

void Metrics::SetStartFailed(bool failed) {
  Gauge("choir_start_failed",
        "1: this process could not start; it stays to say why in /readyz, and tries again. It is 1 "
        "until a try succeeds.")
      .Set(failed ? 1 : 0);
}

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const MetricLabels& labels) {
  std::lock_guard lock(mu_);
  auto& family = counters_[name];
  if (family == nullptr) {
    family = &prometheus::BuildCounter().Name(name).Help(help).Register(*registry_);
  }
  return family->Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help,
                                  const MetricLabels& labels) {
  std::lock_guard lock(mu_);
  auto& family = gauges_[name];
  if (family == nullptr) {
    family = &prometheus::BuildGauge().Name(name).Help(help).Register(*registry_);
  }
  return family->Add(labels);
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& buckets,
                                          const MetricLabels& labels) {
  std::lock_guard lock(mu_);
  auto& family = histograms_[name];
  if (family == nullptr) {
    family = &prometheus::BuildHistogram().Name(name).Help(help).Register(*registry_);
  }
  return family->Add(labels, buckets);
}

std::string Metrics::Capped(const std::string& family, const std::string& value, size_t max) {
  std::lock_guard lock(mu_);
  std::set<std::string>& seen = seen_[family];
  if (seen.contains(value)) return value;
  if (seen.size() >= max) return "other";
  seen.insert(value);
  return value;
}

void Metrics::RefreshProcess() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  auto& cpu = Counter("process_cpu_seconds_total", "User and system CPU time.");
  const double now = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  if (now > cpu.Value()) cpu.Increment(now - cpu.Value());
  std::ifstream statm("/proc/self/statm");
  double pages_virtual = 0, pages_resident = 0;
  statm >> pages_virtual >> pages_resident;
  const double page = static_cast<double>(sysconf(_SC_PAGESIZE));
  Gauge("process_resident_memory_bytes", "Resident memory.").Set(pages_resident * page);
  Gauge("process_virtual_memory_bytes", "Virtual memory.").Set(pages_virtual * page);
  Gauge("process_open_fds", "Open file descriptors.").Set(OpenFileCount());
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Gauge("process_max_fds", "Largest number of open file descriptors.")
      .Set(static_cast<double>(limit.rlim_cur));
}

std::string Metrics::Text() {
  RefreshProcess();
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

const std::vector<double>& Metrics::RequestSeconds() {
  static const std::vector<double> buckets = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300};
  return buckets;
}

const std::vector<double>& Metrics::StepSeconds() {
  static const std::vector<double> buckets = {1e-5,   2.5e-5, 5e-5, 1e-4,  2.5e-4, 5e-4, 1e-3,
                                              2.5e-3, 5e-3,   0.01, 0.025, 0.05,   0.1,  0.25,
                                              0.5,    1,      2.5,  5,     10};
  return buckets;
}

}  // namespace choir
