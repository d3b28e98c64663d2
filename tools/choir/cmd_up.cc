// `choir up`: a whole local cluster as child processes, supervised.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/log.h"
#include "common/base/print_error.h"
#include "common/config/options.h"
#include "common/files/write_file.h"
#include "common/tls/tls_options.h"
#include "router/identity/keys.h"
#include "tools/choir/commands.h"
#include "tools/choir/run_file.h"
#include "tools/tls/issue.h"
#include "tools/up/cluster.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

constexpr char kOwnTenant[] = "local";  // of the key that `up` makes anew at each start,
constexpr char kOwnIdPrefix[] = "up-";  // whose id begins so
// Far more often than the certificates run out; the parts take the new ones up as they run.
constexpr auto kTlsRenewal = std::chrono::hours(7 * 24);
constexpr int64_t kTlsDays = 90;
constexpr auto kKillAfter = std::chrono::seconds(3);

struct UpConfig {
  ClusterOptions cluster;
  std::string ready_file;
  std::string tls = "auto";
  TlsDirectory tls_directory;
  Duration start_timeout = std::chrono::minutes(30);
};

void AddTlsOptions(OptionSet* options, UpConfig* c) {
  ClusterOptions& o = c->cluster;
  options->AddChoice(
      &c->tls,
      {.key = "tls",
       .flag = "--tls",
       .help = "TLS between all parts and to clients, with certificates made in STATE/tls; auto: "
               "when --listen goes beyond this machine; off: never, also not there"},
      {"auto", "on", "off"});
  options->Add(&o.tls_cert, {.key = "tls_cert",
                             .flag = "--tls-cert",
                             .help = "PEM file: the REST API's certificate instead of a made one"});
  options->Add(&o.tls_key,
               {.key = "tls_key", .flag = "--tls-key", .help = "PEM file: its private key"});
  options->Add(&c->tls_directory.hosts,
               {.key = "tls_hosts",
                .flag = "--tls-host",
                .help = "a further name or address for the made certificates; may be repeated"});
}

Status CheckTls(UpConfig* c) {
  ClusterOptions& o = c->cluster;
  if (o.tls_cert.empty() != o.tls_key.empty()) {
    return InvalidArgument("--tls-cert and --tls-key: one without the other");
  }
  if (c->tls == "off") {
    if (!o.tls_cert.empty()) return InvalidArgument("--tls off: leaves no use for --tls-cert");
    o.insecure = true;
  } else if (c->tls == "on" || !o.tls_cert.empty() || !IsLoopback(o.listen)) {
    o.tls_dir = "tls";  // completed once the state directory is known
  }
  c->tls_directory.days = kTlsDays;
  for (std::string* file : {&o.tls_cert, &o.tls_key}) {
    if (!file->empty()) *file = fs::absolute(*file).string();
  }
  return absl::OkStatus();
}

// The parts look into their certificates, which may not be there yet: these are for the check only.
Status CheckParts(const UpConfig& c) {
  ClusterOptions checked = c.cluster;
  if (checked.tls_dir.empty()) return Cluster(std::move(checked)).CheckConfigs();
  std::string dir = (fs::temp_directory_path() / "choir-check-XXXXXX").string();
  if (mkdtemp(dir.data()) == nullptr) return Internal("no temporary directory can be made");
  TlsDirectory made = c.tls_directory;
  made.dir = checked.tls_dir = dir;
  Status status = FillTlsDirectory(made);
  if (status.ok()) status = Cluster(std::move(checked)).CheckConfigs();
  std::error_code ignored;
  fs::remove_all(dir, ignored);
  return status;
}

std::optional<int> ReadConfig(int argc, const char* const* argv, UpConfig* c) {
  ClusterOptions& o = c->cluster;
  std::string quant = "none";
  OptionSet options("choir up", "Runs a whole cluster on this machine: gateway, router, workers.",
                    "up");
  options.Add(&o.model_dir, {.key = "model",
                             .flag = "--model",
                             .help = "Hugging Face model directory",
                             .required = true});
  options.Add(&o.model_name, {.key = "model_name",
                              .flag = "--model-name",
                              .help = "its name for clients [the directory's]"});
  options.Add(&o.groups, {.key = "groups", .flag = "--groups", .help = "groups of ranks"}, 1, 64);
  options.Add(&o.ranks,
              {.key = "ranks", .flag = "--ranks", .help = "expert-parallel ranks of each group"}, 1,
              64);
  options.Add(&o.routers, {.key = "routers", .flag = "--routers", .help = "routers"}, 1, 16);
  options.Add(&o.listen, {.key = "listen",
                          .flag = "--listen",
                          .help = "host:port of the REST API; port 0 picks a free one"});
  AddTlsOptions(&options, c);
  options.Add(
      &o.state_dir,
      {.key = "state", .flag = "--state", .help = "state directory [" + DefaultStateDir() + "]"});
  options.AddChoice(&o.dtype, {.key = "dtype", .flag = "--dtype", .help = "compute type"},
                    {"auto", "f32", "bf16"});
  options.AddChoice(&quant,
                    {.key = "quant",
                     .flag = "--quant",
                     .help = "weight quantization; none is built yet but 'none'"},
                    {"none"});
  options.Add(&o.threads,
              {.key = "threads",
               .flag = "--threads",
               .help = "compute threads of a worker; 0: cores / workers"},
              0, 256);
  options.Add(
      &c->ready_file,
      {.flag = "--ready-file",
       .help =
           "written as JSON once the cluster can serve, rewritten when a process is restarted"});
  options.AddDuration(
      &c->start_timeout,
      {.key = "start_timeout", .flag = "--start-timeout", .help = "give up when not ready by then"},
      std::chrono::seconds(1), std::chrono::hours(24));
  AddLogOptions(&options, &o.log);
  AddTraceOptions(&options, &o.trace);
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--config" && i + 1 < argc) o.config_file = fs::absolute(argv[i + 1]).string();
    if (word.starts_with("--config=")) o.config_file = fs::absolute(word.substr(9)).string();
  }
  options.AddCheck([c, &o]() -> Status {
    CHOIR_RETURN_IF_ERROR(CheckTls(c));
    if (o.state_dir.empty()) o.state_dir = DefaultStateDir();
    o.state_dir = fs::absolute(o.state_dir).string();
    o.model_dir = fs::absolute(o.model_dir).lexically_normal().string();
    if (o.model_dir.ends_with('/')) o.model_dir.pop_back();
    o.bin_dir = fs::read_symlink("/proc/self/exe").parent_path().string();
    if (!o.tls_dir.empty()) o.tls_dir = c->tls_directory.dir = o.state_dir + "/tls";
    return o.config_file.empty() ? absl::OkStatus() : CheckParts(*c);
  });
  if (const auto code = options.Parse(argc, argv)) return code;
  return std::nullopt;
}

Status MakeStateDir(const std::string& dir) {
  std::error_code error;
  for (const char* sub : {"", "/audit", "/tls", "/log", "/cache"}) {
    const bool made = fs::create_directories(dir + sub, error);
    if (error)
      return FailedPrecondition("--state {}: cannot be made: {}", dir + sub, error.message());
    if (made) fs::permissions(dir + sub, fs::perms::owner_all, error);
  }
  return absl::OkStatus();
}

// One `choir up` a state directory. The lock goes with the process.
Status LockStateDir(const std::string& dir) {
  const std::string file = dir + "/lock";
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  const int why = errno;
  if (fd >= 0) close(fd);
  if (fd >= 0 && why == EWOULDBLOCK) {
    return FailedPrecondition(
        "--state {}: another choir up uses it; stop that one or choose another directory", dir);
  }
  return FailedPrecondition(
      "--state {}: {} cannot be {}: {}; choose a directory that can be written", dir, file,
      fd < 0 ? "opened" : "locked", strerror(why));
}

// Keys of earlier starts go, all others stay.
StatusOr<std::string> MakeOwnKey(const std::string& path) {
  std::vector<KeyRecord> keys;
  if (fs::exists(path)) {
    CHOIR_ASSIGN_OR_RETURN(keys, LoadKeys(path));
  }
  std::erase_if(keys, [](const KeyRecord& k) { return k.id.starts_with(kOwnIdPrefix); });
  NewKey own = MakeKey(kOwnTenant, Clock::Real());
  own.record.id = kOwnIdPrefix + own.record.id;
  keys.push_back(own.record);
  CHOIR_RETURN_IF_ERROR(SaveKeys(path, keys));
  return own.secret;
}

class Supervisor {
 public:
  Supervisor(UpConfig config, std::string api_key)
      : config_(std::move(config)), api_key_(std::move(api_key)), cluster_(config_.cluster) {
    sigset_t set;
    sigemptyset(&set);
    for (const int s : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, s);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  ~Supervisor() { close(signal_fd_); }

  int Run() {
    if (!config_.ready_file.empty()) (void)unlink(config_.ready_file.c_str());
    const MonoTime start = Clock::Real().Now();
    Status status;
    while (status.ok()) {
      if (stops_ > 0) return Stop(0);
      status = RenewCertificates();
      if (status.ok()) status = cluster_.StartNext();
      if (status.ok()) status = cluster_.Poll();
      if (status.ok()) status = Publish(start);
      if (status.ok())
        Wait(published_ ? std::chrono::milliseconds(250) : std::chrono::milliseconds(20));
    }
    PrintError("choir up", status);
    std::istringstream words(cluster_.last_words());
    for (std::string line; std::getline(words, line);) {
      std::fprintf(stderr, "%s\n", OneLine(line).c_str());
    }
    return Stop(cluster_.exit_code());
  }

 private:
  Status RenewCertificates() {
    const MonoTime now = Clock::Real().Now();
    if (config_.cluster.tls_dir.empty() || now < renew_at_) return absl::OkStatus();
    renew_at_ = now + kTlsRenewal;
    TlsDirectory directory = config_.tls_directory;
    AddOwnHosts(config_.cluster.listen, &directory.hosts);
    return FillTlsDirectory(directory);
  }

  // Tells the world once everything is ready, and again after every restart.
  Status Publish(MonoTime start) {
    const MonoTime now = Clock::Real().Now();
    if (published_ && cluster_.TakeChanged()) return Write();
    if (published_ || !cluster_.AllListening() || now < ask_at_) return CheckStart(start, "");
    ask_at_ = now + std::chrono::milliseconds(20);
    const std::string reason = cluster_.NotReadyReason();
    if (!reason.empty()) return CheckStart(start, reason);
    published_ = true;
    (void)cluster_.TakeChanged();
    CHOIR_RETURN_IF_ERROR(Write());
    std::printf("ready %s\n", cluster_.url().c_str());
    std::fflush(stdout);
    std::fprintf(stderr, "choir up: ready in %.2f s; state in %s\n", Seconds(now - start),
                 config_.cluster.state_dir.c_str());
    return absl::OkStatus();
  }

  Status CheckStart(MonoTime start, const std::string& reason) {
    if (published_) return absl::OkStatus();
    if (Clock::Real().Now() - start > config_.start_timeout) {
      return DeadlineExceeded("not ready after {} s: {}", Seconds(config_.start_timeout), reason);
    }
    if (!reason.empty() && reason != last_reason_) CHOIR_LOG(info, "{}", reason);
    if (!reason.empty()) last_reason_ = reason;
    return absl::OkStatus();
  }

  Status Write() {
    const std::string text = cluster_.ReadyJson(api_key_).dump(2) + "\n";
    CHOIR_RETURN_IF_ERROR(WriteFileWhole(config_.cluster.state_dir + "/run.json", text));
    if (!config_.ready_file.empty())
      CHOIR_RETURN_IF_ERROR(WriteFileWhole(config_.ready_file, text));
    return absl::OkStatus();
  }

  void Wait(std::chrono::milliseconds timeout) {
    std::vector<pollfd> fds = {{signal_fd_, POLLIN, 0}};
    for (const int fd : cluster_.PollFds()) fds.push_back({fd, POLLIN, 0});
    (void)poll(fds.data(), fds.size(), static_cast<int>(timeout.count()));
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) ++stops_;
    }
  }

  int Stop(int code) {
    if (code == 0) std::fprintf(stderr, "choir up: draining; once more ends everything at once\n");
    (void)unlink((config_.cluster.state_dir + "/run.json").c_str());
    if (!config_.ready_file.empty()) (void)unlink(config_.ready_file.c_str());
    cluster_.BeginStop();
    const int first = stops_;
    MonoTime kill_at = code == 0 ? MonoTime::max() : Clock::Real().Now() + kKillAfter;
    while (!cluster_.PollStop()) {
      Wait(std::chrono::milliseconds(20));
      if (stops_ > first) kill_at = std::min(kill_at, Clock::Real().Now());
      if (Clock::Real().Now() >= kill_at) cluster_.KillAll();
    }
    return code;
  }

  const UpConfig config_;
  const std::string api_key_;
  Cluster cluster_;
  int signal_fd_ = -1;
  int stops_ = 0;
  bool published_ = false;
  MonoTime ask_at_{}, renew_at_{};
  std::string last_reason_;
};

}  // namespace

int RunUp(int argc, const char* const* argv) {
  UpConfig config;
  if (const auto code = ReadConfig(argc, argv, &config)) return *code;
  (void)InitLog("up", config.cluster.log.level, config.cluster.log.format);
  StatusOr<std::string> key = Internal("unset");
  Status status = MakeStateDir(config.cluster.state_dir);
  if (status.ok()) status = LockStateDir(config.cluster.state_dir);
  if (status.ok()) {
    key = MakeOwnKey(Cluster(config.cluster).keys_file());
    status = key.status();
  }
  if (!status.ok()) {
    PrintError("choir up", status);
    return 1;
  }
  return Supervisor(std::move(config), *key).Run();
}

}  // namespace choir
