// `choir bench router`: what gateway and router cost and add, before workers whose steps end at
// known times. Starts its own cluster on free ports and ends it.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "commit.h"
#include "common/base/version.h"
#include "common/config/options.h"
#include "common/runtime/run_program.h"
#include "router/identity/keys.h"
#include "tools/bench/system_limits.h"
#include "tools/choir/commands.h"
#include "tools/choir/offline.h"
#include "tools/load/added_delay.h"
#include "tools/load/load_client.h"
#include "tools/load/load_plan.h"
#include "tools/load/load_report.h"
#include "tools/model/random_model.h"
#include "tools/up/cluster.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

constexpr auto kStartMax = std::chrono::seconds(60);
// More than can be reached: a plan of a closed loop is cut by the time.
constexpr double kRequestsPerSecondMax = 20'000;

// The least that a streamed request of one token takes on this machine when nothing is computed and
// nobody else runs: how often it goes from process to process (client, gateway, router, worker and
// back), from thread to thread within one (gRPC's, the owner's, the audit log's, the engine's), and
// waits for the disk (intent and outcome of class `enforced`).
struct Floor {
  static constexpr int kTcpHops = 6, kThreadHops = 8, kSyncs = 2;
  double tcp_hop = 0, thread_hop = 0, sync = 0;  // seconds each, medians
  double seconds() const { return kTcpHops * tcp_hop + kThreadHops * thread_hop + kSyncs * sync; }
};

StatusOr<Floor> MeasureFloor(const std::string& directory) {
  Floor floor;
  floor.thread_hop = bench::ThreadRoundTrip() / 2;
  CHOIR_ASSIGN_OR_RETURN(const double trip, bench::TcpRoundTrip());
  floor.tcp_hop = trip / 2;
  CHOIR_ASSIGN_OR_RETURN(floor.sync, bench::DurableAppend(directory));
  return floor;
}

struct RouterBenchOptions {
  int64_t workers = 2, step_us = 20000, streams = 64, prompt = 64, tokens = 100, seed = 1;
  double seconds = 20, rate = 0;
  std::string config_file;
  std::string command;  // a load of another program
  bool json = false;
};

// The directory of a cluster's life; removed at the end.
class TemporaryDir {
 public:
  TemporaryDir() : path_((fs::temp_directory_path() / "choir-bench-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~TemporaryDir() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// User and system time of a process so far, in seconds.
double CpuSeconds(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  long long user = 0, system = 0;
  if (name_end == std::string::npos ||
      std::sscanf(text.c_str() + name_end + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lld %lld", &user, &system) != 2) {
    return 0;
  }
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// In seconds, of gateway, router and this process.
struct CpuTimes {
  double gateway = 0, router = 0, client = 0;
  CpuTimes operator-(const CpuTimes& o) const {
    return {gateway - o.gateway, router - o.router, client - o.client};
  }
};

// A whole cluster of fixed-step workers while it lives.
class BenchCluster {
 public:
  explicit BenchCluster(ClusterOptions options) : cluster_(std::move(options)) {}
  ~BenchCluster() {
    cluster_.BeginStop();
    const MonoTime kill_at = Clock::Real().Now() + std::chrono::seconds(10);
    while (!cluster_.PollStop()) {
      if (Clock::Real().Now() > kill_at) cluster_.KillAll();
      Wait();
    }
  }

  Status Start() {
    const MonoTime give_up = Clock::Real().Now() + kStartMax;
    std::string reason = "not all processes listen yet";
    while (!reason.empty()) {
      CHOIR_RETURN_IF_ERROR(cluster_.StartNext());
      CHOIR_RETURN_IF_ERROR(cluster_.Poll());
      if (cluster_.AllListening()) reason = cluster_.NotReadyReason();
      if (Clock::Real().Now() > give_up) return DeadlineExceeded("not ready: {}", reason);
      Wait();
    }
    return absl::OkStatus();
  }

  std::string url() const { return cluster_.url(); }
  CpuTimes Cpu() const {
    const auto pids = cluster_.ReadyJson("")["pids"];
    return {CpuSeconds(pids["gateway"].get<int>()), CpuSeconds(pids["router"].get<int>()),
            CpuSeconds(getpid())};
  }

 private:
  void Wait() const {
    std::vector<pollfd> fds;
    for (const int fd : cluster_.PollFds()) fds.push_back({fd, POLLIN, 0});
    (void)poll(fds.data(), fds.size(), 10);
  }

  Cluster cluster_;
};

StatusOr<std::string> MakeState(const std::string& dir) {
  RandomModelOptions model;
  model.config.family = "llama";
  model.config.overrides = {{"vocab_size", 512}, {"max_position_embeddings", 1 << 20}};
  model.out = dir + "/model";
  CHOIR_RETURN_IF_ERROR(MakeRandomModel(model));
  std::error_code error;
  for (const char* sub : {"/log", "/audit", "/cache"}) fs::create_directories(dir + sub, error);
  NewKey key = MakeKey("bench", Clock::Real());
  CHOIR_RETURN_IF_ERROR(SaveKeys(dir + "/keys.yaml", {key.record}));
  return key.secret;
}

struct Result {
  Floor floor;
  LoadReport report;
  AddedDelay added;
  CpuTimes cpu;
};

// What `command` prints goes to stdout.
Status RunCommand(const std::string& command, const BenchCluster& cluster, const std::string& key,
                  Result* result) {
  setenv("CHOIR_URL", cluster.url().c_str(), 1);
  setenv("CHOIR_KEY", key.c_str(), 1);
  const CpuTimes before = cluster.Cpu();
  std::fflush(stdout);
  CHOIR_ASSIGN_OR_RETURN(const int code, RunProgram({"sh", "-c", command}, ProgramOutput::kStdout));
  if (code != 0) return FailedPrecondition("--command ended with {}: {}", code, command);
  result->cpu = cluster.Cpu() - before;
  return absl::OkStatus();
}

StatusOr<Result> Measure(const RouterBenchOptions& o) {
  const TemporaryDir dir;
  if (dir.path().empty()) return FailedPrecondition("no temporary directory can be made");
  CHOIR_ASSIGN_OR_RETURN(const std::string key, MakeState(dir.path()));
  ClusterOptions cluster_options;
  cluster_options.bin_dir = fs::read_symlink("/proc/self/exe").parent_path().string();
  cluster_options.worker_program = "choir-fixed-step-worker";
  cluster_options.model_dir = dir.path() + "/model";
  cluster_options.state_dir = dir.path();
  cluster_options.listen = "127.0.0.1:0";
  cluster_options.config_file = o.config_file;
  cluster_options.log.level = "warn";
  cluster_options.groups = o.workers;
  cluster_options.ranks = 1;
  setenv("CHOIR_FIXED_STEP_US", std::to_string(o.step_us).c_str(), 1);
  BenchCluster cluster(std::move(cluster_options));
  CHOIR_RETURN_IF_ERROR(cluster.Start());

  Result result;
  if (!o.command.empty()) {
    CHOIR_RETURN_IF_ERROR(RunCommand(o.command, cluster, key, &result));
    return result;
  }
  CHOIR_ASSIGN_OR_RETURN(result.floor, MeasureFloor(dir.path()));
  const double step = static_cast<double>(o.step_us) * 1e-6;
  LoadShape shape;
  shape.prompt = {o.prompt, o.prompt};
  shape.output = {std::max<int64_t>(1, o.tokens / 2), o.tokens + o.tokens / 2};  // out of step
  const double request_seconds = step * static_cast<double>(o.tokens + 1);
  const double rate = o.rate > 0 ? o.rate : static_cast<double>(o.streams) / request_seconds;
  shape.requests =
      std::max(o.streams, static_cast<int64_t>(o.seconds * std::min(rate, kRequestsPerSecondMax)));
  shape.arrival = o.rate > 0 ? Arrival::kPoisson : Arrival::kClosed;
  shape.rate = rate;
  shape.seed = static_cast<uint64_t>(o.seed);
  LoadTarget target{.url = cluster.url(), .api_key = key, .model = "model", .streams = o.streams};
  if (o.rate == 0) target.seconds_max = o.seconds;
  const CpuTimes before = cluster.Cpu();
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LoadRecord> records,
                         RunLoad(target, shape.arrival, PlanLoad(shape)));
  result.cpu = cluster.Cpu() - before;
  result.report = ReportOf(records);
  result.added = AddedDelayOf(records, step, request_seconds);
  return result;
}

void PrintTable(const RouterBenchOptions& o, const Result& r) {
  const auto row = [](const char* name, const Percentiles& p) {
    std::printf("%-34s %9.3f %9.3f %9.3f %9.3f\n", name, p.p50 * 1e3, p.p90 * 1e3, p.p99 * 1e3,
                p.max * 1e3);
  };
  std::printf("%lld streams on %lld workers with steps of %lld us, %u cores\n\n",
              static_cast<long long>(o.streams), static_cast<long long>(o.workers),
              static_cast<long long>(o.step_us), std::thread::hardware_concurrency());
  std::printf("%-34s %9s %9s %9s %9s\n", "added, milliseconds", "p50", "p90", "p99", "max");
  // Workers that are idle now and then begin a step when a request comes, not at a multiple.
  if (o.rate > 0) {
    row("first token, its step included", r.report.ttft);
  } else {
    row("to the first token", r.added.ttft);
  }
  row("to any token", r.added.piece);
  row("to the distance of two tokens", r.added.itl);
  const auto tokens = static_cast<double>(r.report.output_tokens);
  const auto requests = static_cast<double>(r.report.complete);
  std::printf(
      "\n%.1f requests/s, %.0f tokens/s; CPU of gateway and router: %.1f and %.1f us a token, "
      "%.0f and %.0f us a request, of the client: %.0f us\n",
      r.report.requests_per_s(), r.report.output_tokens_per_s(), r.cpu.gateway / tokens * 1e6,
      r.cpu.router / tokens * 1e6, r.cpu.gateway / requests * 1e6, r.cpu.router / requests * 1e6,
      r.cpu.client / requests * 1e6);
  std::printf(
      "least for a request of one token here: %.3f ms (%d times to another process %.0f us, "
      "%d times to another thread %.0f us, %d times to the disk %.0f us)\n",
      r.floor.seconds() * 1e3, Floor::kTcpHops, r.floor.tcp_hop * 1e6, Floor::kThreadHops,
      r.floor.thread_hop * 1e6, Floor::kSyncs, r.floor.sync * 1e6);
  for (const auto& [error, count] : r.report.errors) {
    std::printf("%lld failed: %s\n", static_cast<long long>(count), error.c_str());
  }
}

void PrintJson(const RouterBenchOptions& o, const Result& r) {
  nlohmann::ordered_json out = {{"machine", {{"threads", std::thread::hardware_concurrency()}}},
                                {"version", std::string(kVersion)},
                                {"commit", CHOIR_COMMIT},
                                {"load",
                                 {{"streams", o.streams},
                                  {"workers", o.workers},
                                  {"step_us", o.step_us},
                                  {"rate", o.rate},
                                  {"prompt", o.prompt},
                                  {"tokens", o.tokens}}},
                                {"floor",
                                 {{"seconds", r.floor.seconds()},
                                  {"tcp_hop_s", r.floor.tcp_hop},
                                  {"thread_hop_s", r.floor.thread_hop},
                                  {"durable_append_s", r.floor.sync}}},
                                {"added_ttft", ToJson(r.added.ttft)},
                                {"added_piece", ToJson(r.added.piece)},
                                {"added_itl", ToJson(r.added.itl)},
                                {"gateway_cpu_seconds", r.cpu.gateway},
                                {"router_cpu_seconds", r.cpu.router},
                                {"client_cpu_seconds", r.cpu.client},
                                {"result", ToJson(r.report)}};
  std::printf("%s\n", out.dump(2).c_str());
}

}  // namespace

int RunBenchRouter(int argc, const char* const* argv) {
  RouterBenchOptions o;
  OptionSet set("choir bench router",
                "Measures what gateway and router add to tokens and what they cost, before workers "
                "whose steps take a known time.",
                "");
  set.Add(&o.workers, {.flag = "--workers", .help = "workers"}, 1, 64);
  set.Add(&o.step_us, {.flag = "--step-us", .help = "microseconds of a worker's step"}, 100,
          10'000'000);
  set.Add(&o.streams, {.flag = "--streams", .help = "requests open at once, at most"}, 1, 20000);
  set.Add(&o.rate,
          {.flag = "--rate",
           .help = "requests a second, at random times; 0: each stream asks again at its end"},
          0.0, 1e6);
  set.Add(&o.prompt, {.flag = "--prompt", .help = "prompt tokens"}, 1, 100000);
  set.Add(&o.tokens, {.flag = "--tokens", .help = "answer tokens, on average"}, 1, 100000);
  set.Add(&o.seconds, {.flag = "--seconds", .help = "how long"}, 0.1, 86400);
  set.Add(&o.seed, {.flag = "--seed", .help = "of prompts and lengths"}, 0, INT64_MAX);
  set.Add(&o.config_file, {.flag = "--cluster-config", .help = "YAML for router and gateway"});
  set.Add(&o.command, {.flag = "--command",
                       .help = "a load of another program instead: run by sh with CHOIR_URL and "
                               "CHOIR_KEY in its environment"});
  set.Add(&o.json, {.flag = "--json", .help = "print JSON"});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const StatusOr<Result> result = Measure(o);
  if (!result.ok()) return Complain(result.status());
  if (!o.command.empty()) {
    std::printf("CPU of gateway and router: %.2f and %.2f s\n", result->cpu.gateway,
                result->cpu.router);
    return 0;
  }
  o.json ? PrintJson(o, *result) : PrintTable(o, *result);
  return result->report.errors.empty() ? 0 : 1;
}

}  // namespace choir
