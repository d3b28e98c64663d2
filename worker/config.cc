#include "worker/config.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "common/config/options.h"
#include "common/tls/tls_identity.h"
#include "kernels/kernels.h"
#include "worker/comm/local_address.h"
#include "worker/expert_options.h"
#include "worker/lws_environment.h"
#include "worker/model/weights/numerics_id.h"
#include "worker/pod_name.h"

namespace choir {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
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
  options->AddChoice(&c->device,
                     {.key = "device",
                      .flag = "--device",
                      .help = "what computes; cuda: an NVIDIA GPU (of several, number "
                              "group * ranks + rank), or an error; auto: that, or else the CPU"},
                     {"cpu", "cuda", "auto"});
  options->Add(&c->cpu_path, {.key = "cpu_path",
                              .flag = "--cpu-path",
                              .help = "CPU kernels; auto: the best this machine has"});
  options->AddChoice(&c->cuda_kernels,
                     {.key = "cuda_kernels",
                      .flag = "--cuda-kernels",
                      .help = "GPU kernels; auto: the best that this card passes a check with"},
                     {"auto", "simple", "tensor", "hopper"});
  options->AddDuration(&c->device_timeout,
                       {.key = "device_timeout",
                        .flag = "--device-timeout",
                        .help = "a GPU on which one wait, for a step or a copy, takes longer has "
                                "failed: the worker ends, to be started again. Longer than "
                                "--collective-timeout"},
                       milliseconds(100), hours(1));
  options->Add(&c->weights_digest,
               {.key = "weights_digest",
                .flag = "--weights-digest",
                .help = "what the digest of the model's weights has to be, 64 hex digits, as "
                        "`choir model info --digest` prints it; empty: anything"});
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
  options->Add(&c->pod, {.key = "pod",
                         .flag = "--pod",
                         .help = "name of this StatefulSet's pod and its service, "
                                 "NAME-5.SERVICE: instead of --group, --rank and --leader"});
  options->Add(&c->leader, {.key = "leader",
                            .flag = "--leader",
                            .help = "host:port of rank 0's gRPC, the host by name or number; "
                                    "needed by the other ranks"});
  options->Add(&c->listen, {.key = "listen",
                            .flag = "--listen",
                            .help = "host:port of the gRPC server; port 0 picks a free one "
                                    "[127.0.0.1:7100 + group * ranks + rank]"});
  options->Add(&c->admin,
               {.key = "admin",
                .flag = "--admin",
                .help = "host:port of metrics and health [127.0.0.1:9100 + group * ranks + rank]"});
  options->Add(&c->advertise, {.key = "advertise",
                               .flag = "--advertise",
                               .help = "host:port by which others reach --listen [that]"});
  options->Add(&c->group_listen,
               {.key = "group_listen",
                .flag = "--group-listen",
                .help = "name or address of this machine at which ranks of other hosts reach this "
                        "one, on ports that the system picks [the host of --advertise or --listen; "
                        "where that is 0.0.0.0 or ::, the address on the way to --leader]"});
  options->AddDuration(&c->heartbeat_timeout,
                       {.key = "heartbeat_timeout",
                        .flag = "--heartbeat-timeout",
                        .help = "a rank of the group that is silent for longer is given up"},
                       milliseconds(500), minutes(10));
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
  options->Add(&c->prefix_cache,
               {.key = "prefix_cache",
                .flag = "--prefix-cache",
                .help = "keep computed prefixes in unused KV memory, for requests of one tenant "
                        "that begin alike [on; --prefix-cache=false: off]"});
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
  options->Add(&c->cuda_graph_rows,
               {.key = "cuda_graph_rows",
                .flag = "--cuda-graph-rows",
                .help = "with a GPU, decode steps of up to so many sequences are launched as CUDA "
                        "graphs, one for each size of 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ...; "
                        "answers are the same; 0: none. No effect on the CPU, in groups of several "
                        "ranks with experts, and with --cpu-experts"},
               0, 1024);
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
  options->AddRetryStart(&c->retry_start);
  options->AddDuration(&c->drain_timeout,
                       {.key = "drain_timeout",
                        .flag = "--drain-timeout",
                        .help = "running sequences get this long at SIGTERM"},
                       Duration(0), hours(24));
}

// What follows from LeaderWorkerSet's environment and was not given otherwise.
Status CompleteLws(WorkerConfig* c, const std::string& leader_host) {
  if (c->leader == leader_host) {
    // The pods of a group are made from one template: the leader's port is this one's.
    const std::string port = c->listen.substr(c->listen.rfind(':') + 1);
    c->leader += ":" + (c->listen.empty() ? "7100" : port);
  }
  const bool reachable = !c->listen.empty() && !IsLoopbackHost(HostOf(c->listen));
  if (c->ranks > 1 && !reachable) {
    return InvalidArgument(
        "--listen {}: LWS_GROUP_SIZE is {}, and the ranks in other pods cannot reach loopback; "
        "give --listen 0.0.0.0:7100",
        c->listen, c->ranks);
  }
  return absl::OkStatus();
}

Status CompletePod(WorkerConfig* c, const std::optional<LwsEnvironment>& lws) {
  if (lws || c->group != 0 || c->rank != 0 || !c->leader.empty()) {
    return InvalidArgument("--pod {}: says --group, --rank and --leader itself, leave them out{}",
                           c->pod, lws ? " and use no LeaderWorkerSet" : "");
  }
  CHOIR_ASSIGN_OR_RETURN(const PodPlace place, PlaceOfPod(c->pod, c->ranks));
  c->group = place.group;
  c->rank = place.rank;
  // All pods are made from one template: the leader's port is this one's.
  const std::string port = c->listen.substr(c->listen.rfind(':') + 1);
  if (c->ranks > 1) c->leader = place.leader + ":" + (c->listen.empty() ? "7100" : port);
  return absl::OkStatus();
}

Status CheckAddresses(const WorkerConfig& c) {
  if (!c.leader.empty() && !IsHostAndPort(c.leader)) {
    return InvalidArgument("--leader {}: must be HOST:PORT, as rank 0 prints it", c.leader);
  }
  if (!c.advertise.empty() && (!IsHostAndPort(c.advertise) || IsWildcard(HostOf(c.advertise)))) {
    return InvalidArgument("--advertise {}: must be HOST:PORT by which others reach this rank",
                           c.advertise);
  }
  if (!c.group_listen.empty() && IsWildcard(c.group_listen)) {
    return InvalidArgument("--group-listen {}: one address of this machine is needed, without port",
                           c.group_listen);
  }
  return absl::OkStatus();
}

Status CheckDigest(const std::string& digest) {
  if (digest.empty() || IsHexDigest(digest)) return absl::OkStatus();
  return InvalidArgument("--weights-digest {}: must be 64 digits of 0-9a-f", digest);
}

Status CheckAndComplete(WorkerConfig* c, const std::optional<LwsEnvironment>& lws) {
  if (!c->pod.empty()) CHOIR_RETURN_IF_ERROR(CompletePod(c, lws));
  if (c->rank >= c->ranks) {
    return InvalidArgument("--rank {}: must be below --ranks {}", c->rank, c->ranks);
  }
  if (c->rank > 0 && c->leader.empty()) {
    return InvalidArgument("--leader: rank {} needs the address of rank 0", c->rank);
  }
  if (lws) CHOIR_RETURN_IF_ERROR(CompleteLws(c, lws->leader));
  CHOIR_RETURN_IF_ERROR(CheckAddresses(*c));
  CHOIR_RETURN_IF_ERROR(CheckDigest(c->weights_digest));
  CHOIR_RETURN_IF_ERROR(CheckExpertOptions(*c));
  if (c->device == "cuda" && c->cpu_path != "auto" && CpuExpertsOf(*c) == 0) {
    return InvalidArgument(
        "--cpu-path {}: --device cuda computes on the GPU, leave one of them out or give "
        "--cpu-experts",
        c->cpu_path);
  }
  if (c->device == "cpu" && c->cuda_kernels != "auto") {
    return InvalidArgument(
        "--cuda-kernels {}: --device cpu does not use the GPU, leave one of them out",
        c->cuda_kernels);
  }
  if (c->device != "cpu" && c->ranks > 1 && c->device_timeout <= c->collective_timeout) {
    return InvalidArgument(
        "--device-timeout {:g}s: must be longer than --collective-timeout {:g}s, for which a step "
        "on the GPU may wait for other ranks",
        Seconds(c->device_timeout), Seconds(c->collective_timeout));
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
  CHOIR_RETURN_IF_ERROR(CheckTlsNeed(c->tls, "--listen", c->listen));
  if (!c->leader.empty()) CHOIR_RETURN_IF_ERROR(CheckTlsNeed(c->tls, "--leader", c->leader));
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
  const auto lws =
      ReadLwsEnvironment([](const char* name) -> const char* { return std::getenv(name); });
  if (!lws.ok()) {
    std::fprintf(stderr, "choir-worker: %s\n", MessageOf(lws.status()).c_str());
    return 2;
  }
  if (*lws) {
    config->leader = (*lws)->leader;
    config->group = (*lws)->group;
    config->ranks = (*lws)->size;
    config->rank = (*lws)->index;
  }
  AddModelOptions(&options, config);
  AddGroupOptions(&options, config);
  AddEngineOptions(&options, config);
  AddExpertOptions(&options, config);
  AddPeerTlsOptions(&options, &config->tls);
  AddLogOptions(&options, &config->log);
  AddTraceOptions(&options, &config->trace);
  options.AddCheck([config, lws = *lws] { return CheckAndComplete(config, lws); });
  options.AddStartCheck([config] { return TlsIdentity::Open(config->tls, kWorkerRole).status(); });
  return options.Parse(argc, argv);
}

}  // namespace choir
