// The whole router but its command line: loads the text side of the model, listens, connects to
// workers, serves the admin port, drains. For main and for tests. One thread uses it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/core/router_core.h"
#include "router/core/router_loop.h"
#include "router/rpc/edge_service.h"
#include "router/rpc/inference_service.h"
#include "router/rpc/worker_client.h"

namespace choir {

struct RouterOptions {
  std::string listen = "127.0.0.1:7070";
  std::string admin = "127.0.0.1:9070";
  std::string model_dir;
  std::string model_name;  // empty: the directory's name
  std::string keys_file;
  std::vector<std::string> workers;
  std::string workers_file;  // empty: only `workers`
  uint32_t default_max_tokens = 512;
  uint64_t requests_max = 10'000;
  bool reflection = true;
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
