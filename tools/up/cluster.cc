#include "tools/up/cluster.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "common/base/log.h"

namespace choir {
namespace {

constexpr int kGatewayAdminPort = 9080, kRouterPort = 7070, kRouterAdminPort = 9070;
constexpr int kWorkerPort = 7100, kWorkerAdminPort = 9100;
constexpr auto kStableAfter = std::chrono::seconds(60);  // then the pauses begin anew
constexpr auto kRestartMin = std::chrono::milliseconds(100);
constexpr auto kRestartMax = std::chrono::seconds(5);

std::string Local(int64_t port) {
  const std::string address = fmt::format("127.0.0.1:{}", port);
  return PortIsFree(address) ? address : "127.0.0.1:0";
}

// Before a child has started, an address with port 0 stands for one that will be known.
std::string KnownAddress(const std::string& address) {
  return address.ends_with(":0") ? address.substr(0, address.size() - 1) + "1" : address;
}

}  // namespace

Cluster::Cluster(ClusterOptions options)
    : options_(std::move(options)), settings_(options_.config_file) {
  const auto add = [this](Part part, int64_t index, std::string name, std::string address,
                          std::string admin) {
    processes_.push_back({.part = part,
                          .index = index,
                          .name = std::move(name),
                          .address = std::move(address),
                          .admin = std::move(admin),
                          .child = std::nullopt});
  };
  for (int64_t i = 0; i < options_.groups * options_.ranks; ++i) {
    add(Part::kWorker, i, fmt::format("worker-{}", i), Local(kWorkerPort + i),
        Local(kWorkerAdminPort + i));
  }
  for (int64_t i = 0; i < options_.routers; ++i) {
    const std::string name = options_.routers == 1 ? "router" : fmt::format("router-{}", i);
    add(Part::kRouter, i, name, Local(kRouterPort + i), Local(kRouterAdminPort + i));
  }
  add(Part::kGateway, 0, "gateway", options_.listen, Local(kGatewayAdminPort));
}

const Process* Cluster::Find(Part part, int64_t index) const {
  for (const Process& p : processes_) {
    if (p.part == part && p.index == index) return &p;
  }
  return nullptr;
}

std::string Cluster::LogFile(const Process& p) const {
  return options_.state_dir + "/log/" + p.name + ".log";
}

// Routers do not share a log.
std::string Cluster::AuditDir(const Process& router) const {
  const std::string dir =
      settings_.Get(Part::kRouter, "audit.dir").value_or(options_.state_dir + "/audit");
  return options_.routers == 1 || dir.empty() ? dir : dir + "/" + router.name;
}

std::string Cluster::keys_file() const {
  return settings_.Get(Part::kRouter, "keys").value_or(options_.state_dir + "/keys.yaml");
}

// What is not given to `up` is each part's own section's.
std::vector<std::string> Cluster::Arguments(const Process& p) const {
  const char* program = p.part == Part::kWorker   ? options_.worker_program.c_str()
                        : p.part == Part::kRouter ? "choir-router"
                                                  : "choir-gateway";
  std::vector<std::string> a = {options_.bin_dir + "/" + program};
  const auto add = [&a](std::initializer_list<std::string> more) { a.insert(a.end(), more); };
  if (!options_.config_file.empty()) add({"--config", options_.config_file});
  add({"--listen", p.address, "--admin", p.admin});
  if (options_.log.level != LogOptions().level) add({"--log-level", options_.log.level});
  if (options_.log.format != LogOptions().format) add({"--log-format", options_.log.format});
  if (!options_.trace.endpoint.empty()) {
    add({"--trace-endpoint", options_.trace.endpoint, "--trace-ratio",
         fmt::format("{}", options_.trace.ratio)});
  }
  const std::string model_name = options_.model_name.empty()
                                     ? std::filesystem::path(options_.model_dir).filename().string()
                                     : options_.model_name;
  switch (p.part) {
    case Part::kWorker: {
      const int64_t group = p.index / options_.ranks, rank = p.index % options_.ranks;
      add({"--model", options_.model_dir, "--model-name", model_name, "--group",
           std::to_string(group), "--rank", std::to_string(rank), "--ranks",
           std::to_string(options_.ranks)});
      if (options_.dtype != ClusterOptions().dtype) add({"--dtype", options_.dtype});
      int64_t threads = options_.threads;
      if (threads == 0 && !settings_.Has(Part::kWorker, "threads")) {
        const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
        threads = std::max<int64_t>(1, cores / (options_.groups * options_.ranks));
      }
      if (threads != 0) add({"--threads", std::to_string(threads)});
      if (!settings_.Has(Part::kWorker, "cache_dir")) {
        add({"--cache-dir", options_.state_dir + "/cache"});
      }
      if (rank > 0)
        add({"--leader", KnownAddress(Find(Part::kWorker, group * options_.ranks)->address)});
      break;
    }
    case Part::kRouter:
      add({"--model", options_.model_dir, "--model-name", model_name, "--keys", keys_file(),
           "--audit-dir", AuditDir(p)});
      if (!settings_.Has(Part::kRouter, "audit.keys_dir")) {
        add({"--audit-keys", options_.state_dir + "/audit-keys"});
      }
      for (const Process& w : processes_) {
        if (w.part == Part::kWorker) add({"--worker", KnownAddress(w.address)});
      }
      break;
    case Part::kGateway:
      for (const Process& r : processes_) {
        if (r.part == Part::kRouter) add({"--router", KnownAddress(r.address)});
      }
      break;
  }
  return a;
}

std::vector<std::string> Cluster::TlsArguments(const Process& p) const {
  if (p.part == Part::kGateway && options_.insecure) return {"--insecure"};
  if (options_.tls_dir.empty()) return {};
  const auto files = [this](const std::string& prefix, const std::string& name) {
    const std::string stem = options_.tls_dir + "/" + name;
    return std::vector<std::string>{prefix + "-cert", stem + ".pem",
                                    prefix + "-key",  stem + "-key.pem",
                                    prefix + "-ca",   options_.tls_dir + "/ca.pem"};
  };
  if (p.part == Part::kWorker) return files("--tls", "worker");
  if (p.part == Part::kRouter) return files("--tls", "router");
  std::vector<std::string> a = files("--router-tls", "gateway");
  const std::string stem = options_.tls_dir + "/gateway";
  const bool own = !options_.tls_cert.empty();
  for (const std::string& word :
       {std::string("--tls-cert"), own ? options_.tls_cert : stem + ".pem",
        std::string("--tls-key"), own ? options_.tls_key : stem + "-key.pem"}) {
    a.push_back(word);
  }
  return a;
}

Status Cluster::Start(Process& p) {
  std::vector<std::string> argv = Arguments(p);
  for (std::string& word : TlsArguments(p)) argv.push_back(std::move(word));
  CHOIR_ASSIGN_OR_RETURN(p.child, Child::Spawn(argv, LogFile(p)));
  p.started = Clock::Real().Now();
  p.listening = false;
  changed_ = true;
  return absl::OkStatus();
}

// A process needs the addresses of those before it: the other ranks their leader's, the router the
// workers', the gateway the routers'.
Status Cluster::StartNext() {
  for (Process& p : processes_) {
    if (p.child || p.restarts > 0) continue;
    const auto needs = [&](const Process& other) {
      if (p.part == Part::kWorker) {
        return other.part == Part::kWorker && p.index % options_.ranks != 0 &&
               other.index == p.index - p.index % options_.ranks;
      }
      return other.part == (p.part == Part::kRouter ? Part::kWorker : Part::kRouter);
    };
    const bool waits = std::any_of(processes_.begin(), processes_.end(), [&](const Process& o) {
      return &o != &p && needs(o) && !o.listening;
    });
    if (!waits) CHOIR_RETURN_IF_ERROR(Start(p));
  }
  return absl::OkStatus();
}

Status Cluster::Poll() {
  const MonoTime now = Clock::Real().Now();
  for (Process& p : processes_) {
    if (p.child) {
      if (const auto found = p.child->ReadListening()) {
        for (const char* kind : {"grpc", "http", "https"}) {
          if (found->contains(kind)) p.address = found->at(kind);
        }
        p.https = found->contains("https");
        if (found->contains("admin")) p.admin = found->at("admin");
        p.listening = true;
        changed_ = true;
      }
      if (const auto status = p.child->Reap()) {
        p.child.reset();
        CHOIR_RETURN_IF_ERROR(OnEnded(p, *status, now));
      }
    } else if (p.restarts > 0 && now >= p.restart_at) {
      CHOIR_RETURN_IF_ERROR(Start(p));
    }
  }
  return absl::OkStatus();
}

// Somebody may take a default port between the look at it and its use: then any other will do.
bool Cluster::MoveFromTakenPorts(Process& p) const {
  bool moved = false;
  for (std::string* address : {&p.address, &p.admin}) {
    const bool asked_for = p.part == Part::kGateway && address == &p.address;
    if (asked_for || address->ends_with(":0") || PortIsFree(*address)) continue;
    *address = "127.0.0.1:0";
    moved = true;
  }
  return moved;
}

// An error before the cluster ever served: it would not run the next time either.
Status Cluster::OnEnded(Process& p, int status, MonoTime now) {
  if (p.restarts == 0 && !served_ && WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    if (!p.listening && MoveFromTakenPorts(p)) return Start(p);
    exit_code_ = WEXITSTATUS(status) == 2 ? 2 : 1;
    last_words_ = TailOf(LogFile(p), 12);
    return FailedPrecondition("{} {}; the end of its log {}:", p.name, DescribeWaitStatus(status),
                              LogFile(p));
  }
  p.restarts = now - p.started > kStableAfter ? 1 : p.restarts + 1;
  const Duration pause =
      std::min<Duration>(kRestartMin * (1 << std::min(p.restarts - 1, 10)), kRestartMax);
  CHOIR_LOG(warn, "{} {}; restarting it in {:.1f} s", p.name, DescribeWaitStatus(status),
            Seconds(pause));
  p.listening = false;
  p.restart_at = now + pause;
  return absl::OkStatus();
}

Status Cluster::CheckConfigs() const {
  CHOIR_RETURN_IF_ERROR(settings_.Check(!options_.tls_dir.empty()));
  char log[] = "/tmp/choir-check-XXXXXX";
  const int fd = mkstemp(log);
  if (fd < 0) return Internal("no temporary file can be made");
  close(fd);
  Status status;
  for (const Process& p : processes_) {
    if (p.index != 0 || !status.ok()) continue;
    std::vector<std::string> argv = Arguments(p);
    for (std::string& word : TlsArguments(p)) argv.push_back(std::move(word));
    argv.push_back("--check-config");
    auto child = Child::Spawn(argv, log);
    if (!child.ok()) {
      status = child.status();
    } else if (const int ended = child->Wait(); !WIFEXITED(ended) || WEXITSTATUS(ended) != 0) {
      status = InvalidArgument("the configuration of the {}:\n{}", p.name, TailOf(log, 12));
    }
  }
  unlink(log);
  return status;
}

bool Cluster::AllListening() const {
  return std::all_of(processes_.begin(), processes_.end(),
                     [](const Process& p) { return p.listening; });
}

std::string Cluster::NotReadyReason() {
  for (const Process& p : processes_) {
    if (!p.listening) return p.name + " is starting";
    const auto [code, body] = HttpGet("http://" + p.admin + "/readyz", std::chrono::seconds(1));
    if (code != 200)
      return p.name + ": " +
             (code == 0 ? "its admin port does not answer" : body.substr(0, body.find('\n')));
  }
  served_ = true;
  return "";
}

bool Cluster::TakeChanged() { return std::exchange(changed_, false); }

void Cluster::SignalPart(Part part, int signal) {
  for (Process& p : processes_) {
    if (p.part == part && p.child) p.child->Signal(signal);
  }
}

bool Cluster::PartGone(Part part) const {
  return std::none_of(processes_.begin(), processes_.end(),
                      [part](const Process& p) { return p.part == part && p.child; });
}

void Cluster::BeginStop() {
  stop_stage_ = Part::kGateway;
  SignalPart(stop_stage_, SIGTERM);
}

bool Cluster::PollStop() {
  for (Process& p : processes_) {
    if (p.child && p.child->Reap()) p.child.reset();
  }
  while (PartGone(stop_stage_)) {
    if (stop_stage_ == Part::kWorker) return true;
    stop_stage_ = stop_stage_ == Part::kGateway ? Part::kRouter : Part::kWorker;
    SignalPart(stop_stage_, SIGTERM);
  }
  return false;
}

void Cluster::KillAll() {
  for (Process& p : processes_) {
    if (p.child) p.child->Signal(SIGKILL);
  }
}

std::string Cluster::url() const {
  const Process& gateway = *Find(Part::kGateway, 0);
  return (gateway.https ? "https://" : "http://") + gateway.address;
}

nlohmann::ordered_json Cluster::ReadyJson(const std::string& api_key) const {
  nlohmann::ordered_json routers = nlohmann::ordered_json::array(), router_metrics = routers,
                         router_pids = routers;
  nlohmann::ordered_json worker_metrics = routers, worker_pids = routers, gateway_pid,
                         gateway_metrics;
  for (const Process& p : processes_) {
    const std::string metrics = "http://" + p.admin + "/metrics";
    const nlohmann::ordered_json pid =
        p.child ? nlohmann::ordered_json(p.child->pid()) : nlohmann::ordered_json();
    if (p.part == Part::kRouter) {
      routers.push_back(p.address);
      router_metrics.push_back(metrics);
      router_pids.push_back(pid);
    } else if (p.part == Part::kWorker) {
      worker_metrics.push_back(metrics);
      worker_pids.push_back(pid);
    } else {
      gateway_metrics = metrics;
      gateway_pid = pid;
    }
  }
  nlohmann::ordered_json out = {
      {"url", url()},
      {"router", routers[0]},
      {"metrics",
       {{"router", router_metrics[0]}, {"gateway", gateway_metrics}, {"workers", worker_metrics}}},
      {"pids", {{"gateway", gateway_pid}, {"router", router_pids[0]}, {"workers", worker_pids}}},
      {"api_key", api_key},
      {"state", options_.state_dir}};
  if (!options_.tls_dir.empty()) out["tls"] = {{"ca", options_.tls_dir + "/ca.pem"}};
  if (options_.routers > 1) {
    out["routers"] = routers;
    out["metrics"]["routers"] = router_metrics;
    out["pids"]["routers"] = router_pids;
  }
  return out;
}

std::vector<int> Cluster::PollFds() const {
  std::vector<int> fds;
  for (const Process& p : processes_) {
    if (p.child && !p.listening) fds.push_back(p.child->stdout_fd());
  }
  return fds;
}

}  // namespace choir
