// The whole router but its command line: loads the text side of the model, listens, connects to
// workers, serves the admin port, drains. For main and for tests. One thread uses it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/tls/tls_identity.h"
#include "common/trace/trace_options.h"
#include "router/audit/audit_log.h"
#include "router/content/rule_book.h"
#include "router/core/router_core.h"
#include "router/core/router_loop.h"
#include "router/limits/limit_config.h"
#include "router/limits/limit_setup.h"
#include "router/rpc/edge_service.h"
#include "router/rpc/inference_service.h"
#include "router/rpc/result_cache_setup.h"
#include "router/rpc/worker_client.h"

namespace choir {

// What is taken up from the configuration file while the router runs.
struct FollowedOptions {
  LimitConfig limits;
  PolicySettings policy;
  std::shared_ptr<const ContentRuleBook> content = std::make_shared<ContentRuleBook>();
  std::vector<std::string> next_start;  // changed keys that are taken up by the next start only
};

struct RouterOptions {
  std::string listen = "127.0.0.1:7070";
  std::string admin = "127.0.0.1:9070";
  std::string model_dir;
  std::string model_name;  // empty: the directory's name
  IdentityOptions identity;
  std::vector<std::string> workers;                 // as discovery.h says
  std::string workers_file;                         // empty: only `workers`
  Duration dns_interval = std::chrono::seconds(5);  // between look-ups of "dns:" workers
  uint32_t default_max_tokens = 512;
  uint64_t requests_max = 16'000;
  FollowedOptions followed;
  std::string config_file;  // followed while it changes; empty: none
  // What it says now, whole and checked.
  std::function<StatusOr<FollowedOptions>()> read_again;
  RedisOptions redis;
  ResultCacheOptions results;
  bool reflection = true;
  AuditLogOptions audit;  // without store.dir nothing is recorded
  TlsOptions tls;
  TraceOptions trace;
  RouterSettings settings;  // model_name and router_id are filled in
  LoopLimits loop;
  EdgeLimits edge;
  InferenceLimits inference;
  WorkerClientLimits worker;
};

class RouterProcess {
 public:
  static StatusOr<std::unique_ptr<RouterProcess>> Start(RouterOptions options);
  virtual ~RouterProcess() = default;  // as Stop

  virtual std::string grpc_address() const = 0;  // with the real port
  virtual std::string admin_address() const = 0;

  // Gateways and probes are told that it will drain; health says NOT_SERVING.
  virtual void AnnounceDrain() = 0;
  // New requests are refused from now on; health says NOT_SERVING.
  virtual void BeginDrain() = 0;
  // No request is left.
  virtual bool Idle() = 0;
  // Ends what still runs with 503 draining, then everything.
  virtual void Stop() = 0;
  // The text of /statusz.
  virtual std::string StatusJson() = 0;
  // The text of /metrics.
  virtual std::string MetricsText() = 0;
};

}  // namespace choir
