// A router as far as the count in Redis knows one: a backend and the tasks of its owner thread,
// which is the test's.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/tls/tls_options.h"
#include "router/limits/limit_backend.h"

namespace choir {

struct RedisRouterOptions {
  std::string name = "r";
  std::string url;
  TlsOptions tls;
  Duration lease = std::chrono::seconds(10);
  Duration timeout = std::chrono::seconds(30);
  Duration tick = std::chrono::milliseconds(10);
  std::function<double()> now_us;
};

class RedisRouter {
 public:
  RedisRouter(const RedisRouterOptions& options, const Clock* clock);
  ~RedisRouter();
  LimitBackend& backend() { return *backend_; }
  // What its owner thread has to do now.
  void RunTasks();

 private:
  struct Inbox {
    std::mutex mu;
    std::deque<std::function<void()>> tasks;
  };
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::unique_ptr<LimitBackend> backend_;
};

// Runs the tasks of these routers, and of no others, until `done`. False: not within half a minute.
bool RunUntil(const std::vector<RedisRouter*>& routers, const std::function<bool()>& done);

}  // namespace choir
