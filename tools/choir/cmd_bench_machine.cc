// `choir bench machine`: what this machine allows at most. Every other figure is a share of these.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/version.h"
#include "common/config/options.h"
#include "tools/bench/system_limits.h"
#include "tools/choir/commands.h"
#include "tools/choir/machine_rates.h"
#include "tools/choir/offline.h"

namespace choir {
namespace {

struct Limit {
  const char* name;
  const char* says;  // for people
  const char* unit;  // of `value`
  double value;
  double shown;  // value times `shown` is in `shown_unit`
  const char* shown_unit;
};

void AddRates(int threads, std::vector<Limit>* limits, std::string* cpu) {
  const MachineRates one = MeasureMachine(1);
  const MachineRates all = threads == 1 ? one : MeasureMachine(threads);
  *cpu = all.cpu;
  limits->push_back({"read_one_thread", "memory read, one thread", "bytes/s", one.read_bytes_per_s,
                     1e-9, "GB/s"});
  limits->push_back(
      {"read", "memory read, all threads", "bytes/s", all.read_bytes_per_s, 1e-9, "GB/s"});
  limits->push_back(
      {"fma_f32", "f32 multiply-add, all threads", "flop/s", all.fma_flops_per_s, 1e-9, "GFLOPS"});
  limits->push_back({"dot_bf16", "bf16 dot product, all threads (0: no such instruction)", "flop/s",
                     all.bf16_flops_per_s, 1e-9, "GFLOPS"});
}

Status Run(int64_t threads, const std::string& directory, bool json) {
  std::vector<Limit> limits;
  std::string cpu;
  AddRates(static_cast<int>(threads), &limits, &cpu);
  CHOIR_ASSIGN_OR_RETURN(const double sync, bench::DurableAppend(directory));
  CHOIR_ASSIGN_OR_RETURN(const double trip, bench::TcpRoundTrip());
  CHOIR_ASSIGN_OR_RETURN(const double throughput, bench::TcpThroughput());
  limits.push_back({"thread_round_trip", "two threads wake each other", "s",
                    bench::ThreadRoundTrip(), 1e6, "us"});
  limits.push_back({"tcp_round_trip", "loopback TCP, there and back", "s", trip, 1e6, "us"});
  limits.push_back({"tcp", "loopback TCP, one connection", "bytes/s", throughput, 1e-9, "GB/s"});
  limits.push_back({"durable_append", "4 KiB appended and fdatasync", "s", sync, 1e6, "us"});
  if (!json) {
    std::printf("%s, %lld threads, %s\n", cpu.c_str(), static_cast<long long>(threads),
                directory.c_str());
    for (const Limit& l : limits) {
      std::printf("%-56s %10.2f %s\n", l.says, l.value * l.shown, l.shown_unit);
    }
    return absl::OkStatus();
  }
  nlohmann::ordered_json out = {{"machine", {{"cpu", cpu}, {"threads", threads}}},
                                {"version", std::string(kVersion)},
                                {"figures", nlohmann::ordered_json::array()}};
  for (const Limit& l : limits) {
    out["figures"].push_back({{"name", l.name}, {"value", l.value}, {"unit", l.unit}});
  }
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace

int RunBenchMachine(int argc, const char* const* argv) {
  int64_t threads = std::max(1U, std::thread::hardware_concurrency());
  std::string directory = ".";
  bool json = false;
  OptionSet set("choir bench machine",
                "Measures what this machine allows at most: memory, multiplies, hand-over between "
                "threads, loopback TCP, durable writes.",
                "");
  set.Add(&threads, {.flag = "--threads", .help = "threads to measure with"}, 1, 4096);
  set.Add(&directory, {.flag = "--dir", .help = "where durable writes are measured"});
  set.Add(&json, {.flag = "--json", .help = "print JSON"});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const Status status = Run(threads, directory, json);
  return status.ok() ? 0 : Complain(status);
}

}  // namespace choir
