#include "worker/config.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>

#include "common/config/options.h"
#include "kernels/kernels.h"

namespace choir {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

int64_t UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
  return std::max(CPU_COUNT(&cores), 1);
}

bool IsHostAndPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  const std::string port = address.substr(colon + 1);
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  return digits && std::stoi(port) >= 1 && std::stoi(port) <= 65535;
}

void AddModelOptions(OptionSet* options, WorkerConfig* c) {
  options->Add(&c->model_dir, {.key = "model",
                               .flag = "--model",
                               .help = "Hugging Face model directory",
                               .required = true});
  options->Add(&c->model_name, {.key = "model_name",
                                .flag = "--model-name",
                                .help = "its name for clients [the directory's]"});
  options->AddChoice(&c->dtype,
                     {.key = "dtype", .flag = "--dtype", .help = "compute type; auto: the files'"},
                     {"auto", "f32", "bf16"});
  options->Add(&c->cpu_path, {.key = "cpu_path",
                              .flag = "--cpu-path",
                              .help = "CPU kernels; auto: the best this machine has"});
  options->Add(&c->cache_dir, {.key = "cache_dir",
                               .flag = "--cache-dir",
                               .help = "where digests of weights are kept; empty: nowhere"});
}

void AddGroupOptions(OptionSet* options, WorkerConfig* c) {
  options->Add(&c->group,
               {.key = "group", .flag = "--group", .help = "index of this worker's group"}, 0,
               65535);
  options->Add(&c->rank, {.key = "rank", .flag = "--rank", .help = "rank within the group"}, 0, 63);
  options->Add(&c->ranks, {.key = "ranks", .flag = "--ranks", .help = "ranks of the group"}, 1, 64);
  options->Add(&c->leader, {.key = "leader",
                            .flag = "--leader",
                            .help = "host:port of rank 0's gRPC; needed by the other ranks"});
  options->Add(&c->listen, {.key = "listen",
                            .flag = "--listen",
                            .help = "host:port of the gRPC server; port 0 picks a free one "
                                    "[127.0.0.1:7100 + group * ranks + rank]"});
  options->Add(&c->admin,
               {.key = "admin",
                .flag = "--admin",
                .help = "host:port of metrics and health [127.0.0.1:9100 + group * ranks + rank]"});
  options->AddBytes(&c->ring_bytes,
                    {.key = "ring_bytes",
                     .flag = "--ring-bytes",
                     .help = "shared memory per ordered pair of ranks"},
                    4096, uint64_t{1} << 30);
  options->AddDuration(&c->collective_timeout,
                       {.key = "collective_timeout",
                        .flag = "--collective-timeout",
                        .help = "a rank that keeps the others waiting for longer is given up"},
                       milliseconds(100), hours(1));
}

void AddEngineOptions(OptionSet* options, WorkerConfig* c) {
  options->AddBytes(&c->kv_bytes,
                    {.key = "kv_bytes", .flag = "--kv-bytes", .help = "memory of the KV cache"},
                    uint64_t{1} << 16, uint64_t{1} << 44);
  options->Add(&c->step_tokens,
               {.key = "step_tokens", .flag = "--step-tokens", .help = "token budget of a step"}, 1,
               65536);
  options->Add(
      &c->sequences_max,
      {.key = "sequences_max", .flag = "--sequences-max", .help = "sequences running at once"}, 1,
      65536);
  options->Add(
      &c->waiting_max,
      {.key = "waiting_max", .flag = "--waiting-max", .help = "sequences waiting for their turn"},
      1, 1 << 20);
  options->Add(&c->context_length,
               {.key = "context_length",
                .flag = "--context-length",
                .help = "longest sequence, in tokens; 0: the model's"},
               0, int64_t{1} << 30);
  options->Add(
      &c->threads,
      {.key = "threads", .flag = "--threads", .help = "compute threads; 0: usable cores / ranks"},
      0, 256);
  options->Add(&c->nice,
               {.key = "nice", .flag = "--nice", .help = "niceness of the compute threads"}, 0, 19);
  options->AddDuration(&c->step_timeout,
                       {.key = "step_timeout",
                        .flag = "--step-timeout",
                        .help = "/livez fails when no step ends for so long in spite of work"},
                       seconds(1), hours(24));
  options->AddDuration(&c->drain_timeout,
                       {.key = "drain_timeout",
                        .flag = "--drain-timeout",
                        .help = "running sequences get this long at SIGTERM"},
                       Duration(0), hours(24));
}

Status CheckAndComplete(WorkerConfig* c) {
  if (c->rank >= c->ranks) {
    return InvalidArgument("--rank {}: must be below --ranks {}", c->rank, c->ranks);
  }
  if (c->rank > 0 && c->leader.empty()) {
    return InvalidArgument("--leader: rank {} needs the address of rank 0", c->rank);
  }
  if (!c->leader.empty() && !IsHostAndPort(c->leader)) {
    return InvalidArgument("--leader {}: must be HOST:PORT, as rank 0 prints it", c->leader);
  }
  if (c->cpu_path != "auto" && c->cpu_path != "reference") {
    const auto paths = CpuPaths();
    if (std::find(paths.begin(), paths.end(), c->cpu_path) == paths.end()) {
      return InvalidArgument("--cpu-path {}: this machine has auto, reference, {}", c->cpu_path,
                             fmt::join(paths, ", "));
    }
  }
  const int64_t index = c->group * c->ranks + c->rank;
  if ((c->listen.empty() || c->admin.empty()) && index > 1000) {
    return InvalidArgument("--listen, --admin: worker {} is beyond the default ports, name its own",
                           index);
  }
  if (c->listen.empty()) c->listen = fmt::format("127.0.0.1:{}", 7100 + index);
  if (c->admin.empty()) c->admin = fmt::format("127.0.0.1:{}", 9100 + index);
  if (c->model_name.empty()) {
    const auto path = std::filesystem::absolute(c->model_dir).lexically_normal();
    c->model_name = (path.has_filename() ? path : path.parent_path()).filename().string();
  }
  if (c->threads == 0) c->threads = std::clamp<int64_t>(UsableCores() / c->ranks, 1, 256);
  return absl::OkStatus();
}

}  // namespace

std::optional<int> ReadWorkerConfig(int argc, const char* const* argv, WorkerConfig* config) {
  OptionSet options("choir-worker",
                    "Runs one rank of a group: a model's inference engine behind gRPC.", "worker");
  AddModelOptions(&options, config);
  AddGroupOptions(&options, config);
  AddEngineOptions(&options, config);
  options.AddChoice(
      &config->log_level,
      {.key = "log_level", .flag = "--log-level", .help = "least level that is logged"},
      {"trace", "debug", "info", "warn", "error", "off"});
  options.AddCheck([config] { return CheckAndComplete(config); });
  return options.Parse(argc, argv);
}

}  // namespace choir
