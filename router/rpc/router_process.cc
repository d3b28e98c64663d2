#include "router/rpc/router_process.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include <filesystem>
#include <optional>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/http/admin_server.h"
#include "common/metrics/metrics.h"
#include "router/membership/discovery.h"

namespace choir {
namespace {

constexpr int kReceiveBytesMax = 64 << 20;
constexpr auto kStuckAfter = std::chrono::seconds(10);
constexpr auto kAdminWait = std::chrono::seconds(2);

uint64_t Random64() {
  uint64_t value = 0;
  CHOIR_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&value), sizeof value) == 1);
  return value;
}

std::string NameOfDirectory(const std::string& dir) {
  std::error_code ignored;
  std::filesystem::path path = std::filesystem::weakly_canonical(dir, ignored);
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

class Process final : public RouterProcess {
 public:
  explicit Process(RouterOptions options) : options_(std::move(options)), loop_(options_.loop) {}
  ~Process() override { Stop(); }

  Status Init();
  std::string grpc_address() const override { return grpc_address_; }
  std::string admin_address() const override { return admin_ ? admin_->address() : ""; }
  void BeginDrain() override;
  bool Idle() override;
  void Stop() override;
  std::string StatusJson() override;
  std::string MetricsText() override;

 private:
  Status LoadParts();
  Status StartServer();
  Status StartWorkers();
  Status StartAdmin();
  void EachRound();
  Status Live() const;
  Status Ready();
  void OnReload(const Status& status) { metrics_parts_->reload_success.Set(status.ok() ? 1 : 0); }

  RouterOptions options_;
  Metrics metrics_{"router"};
  std::unique_ptr<RouterMetrics> metrics_parts_;
  std::unique_ptr<ModelText> model_;
  std::unique_ptr<Identity> identity_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<Audit> audit_ = MakeNoAudit();
  RouterLoop loop_;
  std::unique_ptr<WorkerClient> workers_;
  std::unique_ptr<RouterCore> core_;
  std::unique_ptr<EdgeService> edge_;
  std::unique_ptr<InferenceService> inference_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<FileWatch> workers_watch_;
  std::unique_ptr<AdminServer> admin_;
  std::string grpc_address_;
  std::optional<bool> told_serving_;  // owner thread only
  bool started_ = false;
};

Status Process::Init() {
  CHOIR_RETURN_IF_ERROR(LoadParts());
  workers_ = std::make_unique<WorkerClient>(options_.settings.router_id, options_.worker, &loop_,
                                            &Clock::Real());
  edge_ = std::make_unique<EdgeService>(options_.edge, &loop_);
  inference_ = std::make_unique<InferenceService>(options_.inference, &loop_);
  RouterParts parts;
  parts.clock = &Clock::Real();
  parts.model = model_.get();
  parts.identity = identity_.get();
  parts.admission = admission_.get();
  parts.audit = audit_.get();
  parts.metrics = metrics_parts_.get();
  parts.links = workers_.get();
  parts.run_text = [this](std::function<void()> work, std::function<void()> then) {
    return loop_.RunText(std::move(work), std::move(then));
  };
  parts.random = Random64;
  core_ = std::make_unique<RouterCore>(options_.settings, std::move(parts));
  workers_->SetCore(core_.get());
  edge_->SetCore(core_.get());
  inference_->SetCore(core_.get());
  CHOIR_RETURN_IF_ERROR(StartServer());
  started_ = true;
  loop_.Start(core_.get(), [this] { EachRound(); });
  CHOIR_RETURN_IF_ERROR(StartWorkers());
  return StartAdmin();
}

Status Process::LoadParts() {
  RouterSettings& settings = options_.settings;
  settings.model_name =
      options_.model_name.empty() ? NameOfDirectory(options_.model_dir) : options_.model_name;
  settings.router_id = fmt::format("router-{:016x}", Random64());
  struct stat st = {};
  if (stat((options_.model_dir + "/config.json").c_str(), &st) == 0) {
    settings.model_created = st.st_mtim.tv_sec;
  }
  metrics_parts_ = std::make_unique<RouterMetrics>(&metrics_, settings.model_name);
  CHOIR_ASSIGN_OR_RETURN(model_, ModelText::Load(options_.model_dir, options_.default_max_tokens));
  CHOIR_ASSIGN_OR_RETURN(
      identity_,
      Identity::Open(options_.keys_file, [this](const Status& status) { OnReload(status); }));
  admission_ = MakeBoundedAdmission(options_.requests_max);
  return absl::OkStatus();
}

Status Process::StartServer() {
  grpc::EnableDefaultHealthCheckService(true);
  if (options_.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(edge_.get());
  builder.RegisterService(inference_.get());
  builder.SetMaxReceiveMessageSize(kReceiveBytesMax);
  builder.SetMaxSendMessageSize(-1);
  // Two processes on one port would share its connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  server_ = builder.BuildAndStart();
  if (!server_ || port == 0) {
    server_.reset();
    return Unavailable("{}: cannot listen there; is the port taken?", options_.listen);
  }
  grpc_address_ =
      options_.listen.substr(0, options_.listen.rfind(':')) + ":" + std::to_string(port);
  server_->GetHealthCheckService()->SetServingStatus(false);
  return absl::OkStatus();
}

Status Process::StartWorkers() {
  for (const std::string& address : options_.workers) {
    CHOIR_RETURN_IF_ERROR(CheckWorkerAddress(address));
  }
  if (options_.workers_file.empty()) {
    loop_.Post([this] { workers_->SetAddresses(options_.workers); });
    return absl::OkStatus();
  }
  workers_watch_ =
      std::make_unique<FileWatch>(options_.workers_file, [this](const std::string& text) {
        auto listed = ParseWorkers(text, options_.workers_file);
        OnReload(listed.status());
        if (!listed.ok()) return listed.status();
        std::vector<std::string> all = options_.workers;
        all.insert(all.end(), listed->begin(), listed->end());
        loop_.Post([this, all = std::move(all)] { workers_->SetAddresses(all); });
        return absl::OkStatus();
      });
  CHOIR_RETURN_IF_ERROR(workers_watch_->Poll());
  workers_watch_->Start(std::chrono::milliseconds(250));
  return absl::OkStatus();
}

Status Process::StartAdmin() {
  AdminHandlers handlers;
  handlers.metrics = [this] { return MetricsText(); };
  handlers.live = [this] { return Live(); };
  handlers.ready = [this] { return Ready(); };
  handlers.status = [this] { return StatusJson(); };
  CHOIR_ASSIGN_OR_RETURN(admin_, AdminServer::Start(options_.admin, std::move(handlers)));
  return absl::OkStatus();
}

void Process::EachRound() {
  workers_->EachRound();
  edge_->EachRound();
  const bool serving = core_->Ready().ok();
  if (serving == told_serving_) return;
  told_serving_ = serving;
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);  // every service, "" included
  health->SetServingStatus("choir.v1.Inference", serving);
  health->SetServingStatus("choir.v1.Edge", serving);
}

Status Process::Live() const {
  const Duration busy = loop_.BusyFor(Clock::Real());
  if (busy < kStuckAfter) return absl::OkStatus();
  return Unavailable("the owner thread has been busy for {:.0f} s", Seconds(busy));
}

Status Process::Ready() {
  auto ready = std::make_shared<Status>();
  if (loop_.Call([this, ready] { *ready = core_->Ready(); }, kAdminWait)) return *ready;
  return Unavailable("the owner thread does not answer");
}

std::string Process::MetricsText() {
  // What is exported as of now; without an answer the last values stand.
  loop_.Call([this] { core_->PublishMetrics(); }, kAdminWait);
  return metrics_.Text();
}

std::string Process::StatusJson() {
  auto json = std::make_shared<std::string>();
  if (loop_.Call([this, json] { *json = core_->StatusJson(); }, kAdminWait)) return *json;
  return R"({"part":"router","ready":false,"reason":"the owner thread does not answer"})";
}

void Process::BeginDrain() {
  loop_.Post([this] { core_->BeginDrain(); });
}

bool Process::Idle() {
  auto idle = std::make_shared<bool>(false);
  return loop_.Call([this, idle] { *idle = core_->idle(); }, kAdminWait) && *idle;
}

void Process::Stop() {
  if (!started_) return;
  started_ = false;
  workers_watch_.reset();
  admin_.reset();
  loop_.Call(
      [this] {
        core_->BeginDrain();
        core_->AbortAll();
        workers_->EachRound();  // the cancels go out before the streams end
        edge_->EachRound();
        workers_->Close();
        edge_->Close();
      },
      std::chrono::seconds(10));
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  edge_->WaitClosed();
  inference_->WaitClosed();
  workers_->WaitClosed();
  loop_.Stop();
}

}  // namespace

StatusOr<std::unique_ptr<RouterProcess>> RouterProcess::Start(RouterOptions options) {
  auto process = std::make_unique<Process>(std::move(options));
  CHOIR_RETURN_IF_ERROR(process->Init());
  return process;
}

}  // namespace choir
