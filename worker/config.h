// What a worker process is started with: flags of choir-worker and the YAML section `worker`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/config/log_options.h"
#include "common/tls/tls_options.h"
#include "common/trace/trace_options.h"
#include "worker/engine/engine.h"

namespace choir {

struct WorkerConfig {
  std::string model_dir;
  std::string model_name;  // what clients call it; default: the directory's name
  std::string dtype = "auto";
  std::string device = "cpu";                       // cpu, cuda or auto; see OpenBackend
  std::string device_exchange = "auto";             // auto, nccl or host; see DeviceJoin
  bool f8_rows = false;                             // see LoadOptions
  int64_t slot_rows = 16, micro_batch_rows = 0;     // see EngineOptions
  uint64_t slot_output_bytes = uint64_t{16} << 20;  // see SlotOptions
  std::string cpu_path = "auto";
  std::string cuda_kernels = "auto";                   // simple, tensor, hopper or auto
  Duration device_timeout = std::chrono::seconds(60);  // WaitBound::limit
  std::string weights_digest;                          // what the files' has to be; empty: anything
  std::string cache_dir;
  int64_t group = 0;
  int64_t rank = 0;
  int64_t ranks = 1;
  std::string pod;           // see pod_name.h; gives group, rank and leader
  std::string leader;        // rank 0's gRPC address, by name or number; rank 0 needs none
  std::string listen;        // default 127.0.0.1:7100 + group * ranks + rank
  std::string admin;         // default 127.0.0.1:9100 + group * ranks + rank
  std::string advertise;     // host:port by which others reach `listen`; default: that
  std::string group_listen;  // where ranks of other hosts reach this one; default: see MeshAddress
  uint64_t kv_bytes = uint64_t{1} << 30;
  bool prefix_cache = true;
  int64_t step_tokens = 512;
  int64_t sequences_max = 256;
  int64_t waiting_max = 4096;
  int64_t redundant_experts = 0;  // EngineOptions has these three
  bool expert_cover = false;
  int64_t placement_steps = 256;
  std::string cpu_experts = "0";            // of each layer that a GPU leaves to the CPU; or "auto"
  std::vector<std::string> expert_hotness;  // HostExpertOptions::hotness
  std::string expert_counts;  // directory for what the experts here computed; empty: nowhere
  int64_t context_length = 0;
  int64_t cuda_graph_rows = 256;  // EngineOptions::graph_rows_max
  int64_t threads = 0;            // 0: the cores this process may use, divided by the ranks
  int64_t nice = 5;               // of the compute threads: tokens on their way out go first
  uint64_t ring_bytes = uint64_t{1} << 20;
  Duration collective_timeout = std::chrono::seconds(30);
  Duration heartbeat_timeout = std::chrono::seconds(5);  // of the ranks of a group to one another
  Duration step_timeout =
      std::chrono::seconds(60);  // no step for so long in spite of work: not alive
  Duration drain_timeout = std::chrono::seconds(600);
  Duration retry_start = Duration(0);  // 0: a worker that cannot start ends
  TlsOptions tls;
  LogOptions log;
  TraceOptions trace;
};

// LeaderWorkerSet's environment gives defaults (lws_environment.h). nullopt: go on. Otherwise the
// exit code; see OptionSet::Parse.
std::optional<int> ReadWorkerConfig(int argc, const char* const* argv, WorkerConfig* config);

}  // namespace choir
