// Admin.Drain: begins the drain, answers when nothing runs any more or the caller's time is over. A
// blocking handler on gRPC's own threads: it is called rarely and waits long. Private to
// worker/rpc.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <mutex>

#include "choir/v1/control.grpc.pb.h"
#include "common/rpc/credentials.h"

namespace choir {

class DrainService final : public v1::Admin::Service {
 public:
  DrainService(std::function<void()> on_drain, std::function<size_t()> num_running,
               std::shared_ptr<TlsIdentity> tls)
      : on_drain_(std::move(on_drain)),
        num_running_(std::move(num_running)),
        tls_(std::move(tls)) {}

  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                     v1::DrainResponse* response) override {
    const Status may = CheckCaller(tls_.get(), *context, {kAdminRole, kRouterRole});
    if (!may.ok()) return {grpc::StatusCode(may.code()), MessageOf(may)};
    const double timeout = request->timeout_seconds();
    if (!std::isfinite(timeout) || timeout < 0 || timeout > 3600) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "timeout_seconds must be from 0 to 3600"};
    }
    if (on_drain_) on_drain_();
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::chrono::duration<double>(timeout),
                      [this] { return stopped_ || num_running_() == 0; });
    response->set_running(static_cast<uint32_t>(num_running_()));
    return grpc::Status::OK;
  }

  // After something may have finished; any thread.
  void Poll() {
    if (num_running_() > 0) return;
    { std::lock_guard lock(mu_); }
    changed_.notify_all();
  }
  void Stop() {
    {
      std::lock_guard lock(mu_);
      stopped_ = true;
    }
    changed_.notify_all();
  }

 private:
  const std::function<void()> on_drain_;
  const std::function<size_t()> num_running_;
  const std::shared_ptr<TlsIdentity> tls_;
  std::mutex mu_;  // guards stopped_
  std::condition_variable changed_;
  bool stopped_ = false;
};

}  // namespace choir
