// The local cluster of `choir up`: which processes run with which arguments, in which order they
// start, are watched, restarted and stopped. One thread. Children keep their addresses over
// restarts.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/config/log_options.h"
#include "common/trace/trace_options.h"
#include "tools/up/child.h"
#include "tools/up/part_settings.h"

namespace choir {

struct ClusterOptions {
  std::string bin_dir;  // where choir-router and the others are
  std::string worker_program = "choir-worker";
  std::string model_dir;
  std::string model_name;  // empty: the directory's name
  std::string state_dir;
  std::string listen = "127.0.0.1:8080";
  std::string config_file;  // handed to every child; may be empty
  std::string dtype = "auto";
  LogOptions log;
  TraceOptions trace;
  std::string tls_dir;            // of FillTlsDirectory: TLS between all parts; empty: plain text
  std::string tls_cert, tls_key;  // of the gateway's HTTPS instead of the directory's
  bool insecure = false;          // plain HTTP also beyond loopback
  int64_t groups = 1, ranks = 2, routers = 1;
  int64_t threads = 0;  // of each worker; 0: cores / workers
};

struct Process {
  Part part;
  int64_t index = 0;    // of its part; a worker's is group * ranks + rank
  std::string name;     // "worker-0", also the log file's
  std::string address;  // gRPC, or HTTP of the gateway; known after the first start
  std::string admin;
  std::optional<Child> child;
  bool https = false;  // of the gateway; known after the first start
  bool listening = false;
  int restarts = 0;
  MonoTime started{}, restart_at{};
};

class Cluster {
 public:
  explicit Cluster(ClusterOptions options);

  Status StartNext();  // starts what can be started now; call until all are listening
  // Asks each kind of child whether it would take its configuration; the error has its words.
  // REQUIRES: the files of tls_dir are there
  Status CheckConfigs() const;
  Status Poll();  // reads pipes, reaps, restarts. An error: a child cannot ever start
  const std::string& last_words() const { return last_words_; }  // then: the end of its log
  int exit_code() const { return exit_code_; }  // after Poll's error: 2 wrong configuration, else 1
  bool AllListening() const;
  // Asks each /readyz; empty: all are ready. From the first time on, children that end are
  // restarted.
  std::string NotReadyReason();
  bool TakeChanged();  // a process was (re)started since the last call: rewrite the ready file

  void BeginStop();  // asks the gateway, then the routers, then the workers to drain
  bool PollStop();   // true: all are gone
  void KillAll();

  std::string url() const;
  std::string keys_file() const;  // of API keys
  nlohmann::ordered_json ReadyJson(const std::string& api_key) const;
  std::vector<int> PollFds() const;

 private:
  std::vector<std::string> Arguments(const Process& p) const;  // without TlsArguments
  std::vector<std::string> TlsArguments(const Process& p) const;
  Status Start(Process& p);
  Status OnEnded(Process& p, int status, MonoTime now);
  bool MoveFromTakenPorts(Process& p) const;
  const Process* Find(Part part, int64_t index) const;
  std::string LogFile(const Process& p) const;
  std::string AuditDir(const Process& router) const;
  void SignalPart(Part part, int signal);
  bool PartGone(Part part) const;

  const ClusterOptions options_;
  const PartSettings settings_;
  std::vector<Process> processes_;
  bool changed_ = false;
  bool served_ = false;
  std::string last_words_;
  int exit_code_ = 1;
  Part stop_stage_ = Part::kGateway;
};

// Whether this address can be bound now.
bool PortIsFree(const std::string& host_port);
// GET of a plain admin URL: status code and body; 0 when it did not answer within `timeout`.
std::pair<long, std::string> HttpGet(const std::string& url, Duration timeout);

}  // namespace choir
