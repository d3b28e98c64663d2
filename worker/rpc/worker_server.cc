#include "worker/rpc/worker_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>

#include "choir/v1/control.grpc.pb.h"
#include "choir/v1/worker.grpc.pb.h"
#include "common/base/log.h"
#include "common/rpc/credentials.h"
#include "common/rpc/refused_stream.h"
#include "worker/rpc/drain_service.h"
#include "worker/rpc/group_server.h"
#include "worker/rpc/router_hub.h"

namespace choir {
namespace {

constexpr size_t kJoinBytesMax = size_t{1} << 20;  // unread words to one rank
constexpr int kStreamsMax = 256;                   // of one connection
constexpr char kWorkerService[] = "choir.v1.Worker";

class WorkerService final : public v1::Worker::CallbackService {
 public:
  WorkerService(RouterHub* hub, const WorkerServerOptions& options)
      : hub_(hub), bytes_max_(options.stream_bytes_max), tls_(options.tls) {}
  grpc::ServerBidiReactor<v1::ToWorker, v1::FromWorker>* Connect(
      grpc::CallbackServerContext* context) override {
    const Status may = CheckCaller(tls_.get(), *context, {kRouterRole});
    if (!may.ok()) return new RefusedStream<v1::ToWorker, v1::FromWorker>(may);
    auto stream = ServerStream<v1::ToWorker, v1::FromWorker>::Make(context, bytes_max_);
    hub_->Accept(stream);
    return stream.get();
  }

 private:
  RouterHub* const hub_;
  const size_t bytes_max_;
  const std::shared_ptr<TlsIdentity> tls_;
};

class GroupService final : public v1::Group::CallbackService {
 public:
  GroupService(GroupServer* group, std::shared_ptr<TlsIdentity> tls)
      : group_(group), tls_(std::move(tls)) {}
  grpc::ServerBidiReactor<v1::JoinUp, v1::JoinDown>* Join(
      grpc::CallbackServerContext* context) override {
    const Status may = CheckCaller(tls_.get(), *context, {kWorkerRole});
    if (!may.ok()) return new RefusedStream<v1::JoinUp, v1::JoinDown>(may);
    auto stream = GroupServer::Stream::Make(context, kJoinBytesMax);
    group_->Accept(stream);
    return stream.get();
  }

 private:
  GroupServer* const group_;
  const std::shared_ptr<TlsIdentity> tls_;
};

class WorkerServerImpl final : public WorkerServer {
 public:
  explicit WorkerServerImpl(const WorkerServerOptions& options)
      : hub_(options, Clock::Real()),
        group_(Clock::Real()),
        worker_service_(&hub_, options),
        group_service_(&group_, options.tls),
        drain_service_(
            options.on_drain, [this] { return num_sequences(); }, options.tls) {}
  ~WorkerServerImpl() override { Shutdown(Duration::zero()); }

  Status Listen(const WorkerServerOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    int port = 0;
    CHOIR_ASSIGN_OR_RETURN(auto credentials,
                           MakeServerCredentials(options.tls, ClientCertificate::kRequired));
    builder.AddListeningPort(options.listen, std::move(credentials), &port);
    builder.SetMaxReceiveMessageSize(options.message_bytes_max);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsMax);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                               0);  // a taken port is an error, not a share
    // Routers ping idle streams to notice a dead host; gRPC's default counts that as abuse.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.RegisterService(&worker_service_);
    builder.RegisterService(&group_service_);
    builder.RegisterService(&drain_service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return Unavailable(
          "cannot listen on {}: the port is taken or the address is not this machine's; see "
          "--listen",
          options.listen);
    }
    const size_t colon = options.listen.rfind(':');
    address_ = fmt::format("{}:{}", options.listen.substr(0, colon), port);
    SetHealth(false);
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }
  void Open(const ServedModel& model, Engine* engine) override { hub_.Open(model, engine); }
  void LeadGroup(GroupLeaderOptions options) override { group_.Lead(std::move(options)); }
  void Deliver(const StepOutput& output) override {
    hub_.Deliver(output);
    drain_service_.Poll();
  }
  void SetStatus(const WorkerStatus& status) override {
    hub_.SetStatus(status);
    SetHealth(status.ready && !status.draining);
  }
  size_t num_sequences() const override { return hub_.num_sequences(); }
  size_t num_routers() const override { return hub_.num_routers(); }
  uint64_t num_ghosts() const override { return hub_.num_ghosts(); }

  void Shutdown(Duration grace) override {
    if (server_ == nullptr || shut_down_.exchange(true)) return;
    SetHealth(false);
    drain_service_.Stop();
    hub_.CloseAll(Unavailable("the worker leaves"));
    group_.Stop();
    server_->Shutdown(std::chrono::system_clock::now() +
                      std::chrono::duration_cast<std::chrono::system_clock::duration>(grace));
    server_->Wait();
  }

 private:
  void SetHealth(bool serving) {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    if (health == nullptr) return;
    health->SetServingStatus(serving);
    health->SetServingStatus(kWorkerService, serving);
  }

  RouterHub hub_;
  GroupServer group_;
  WorkerService worker_service_;
  GroupService group_service_;
  DrainService drain_service_;
  std::string address_;
  std::atomic<bool> shut_down_{false};
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(const WorkerServerOptions& options) {
  auto server = std::make_unique<WorkerServerImpl>(options);
  CHOIR_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace choir
