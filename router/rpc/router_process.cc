#include "router/rpc/router_process.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>

#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/log.h"
#include "common/base/version.h"
#include "common/http/admin_server.h"
#include "common/metrics/metrics.h"
#include "common/rpc/credentials.h"
#include "common/rpc/tracing.h"
#include "common/tls/tls_report.h"
#include "router/limits/tenant_limits.h"
#include "router/membership/discovery.h"
#include "router/membership/worker_directory.h"
#include "router/rpc/broken_files.h"
#include "router/rpc/config_changes.h"
#include "router/rpc/random64.h"

namespace choir {
namespace {

constexpr int kReceiveBytesMax = 64 << 20;
constexpr auto kStuckAfter = std::chrono::seconds(10);
constexpr auto kStopWait = std::chrono::seconds(10);
constexpr auto kTlsInterval = std::chrono::milliseconds(500);
constexpr auto kAdminWait = std::chrono::seconds(2);

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
  void AnnounceDrain() override;
  void BeginDrain() override;
  bool Idle() override;
  void Stop() override;
  std::string StatusJson() override;
  std::string MetricsText() override;

 private:
  Status LoadParts();
  Status OpenLimits();
  void FollowConfig();
  void TakeUp(FollowedOptions now);
  auto OnLoop() {
    return [this](std::function<void()> task) { loop_.Post(std::move(task)); };
  }
  Status OpenAudit();
  Status StartServer();
  Status StartWorkers();
  Status StartAdmin();
  void EachRound();
  void CloseAudit();
  Status Live() const;
  Status Ready();

  RouterOptions options_;
  Metrics metrics_{"router"};
  std::unique_ptr<RouterMetrics> metrics_parts_;
  std::unique_ptr<Tracing> tracing_;
  std::shared_ptr<TlsIdentity> tls_;  // null: plain text
  std::unique_ptr<TlsReport> tls_report_;
  std::unique_ptr<ModelText> model_;
  std::unique_ptr<Identity> identity_;
  RouterLoop loop_;
  std::unique_ptr<TenantLimits> limits_;  // posts to the loop
  std::unique_ptr<ResultCache> results_;  // likewise; null: every answer is computed
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<AuditLog> audit_log_;  // null: nothing is recorded
  std::unique_ptr<Audit> no_audit_ = MakeNoAudit();
  std::unique_ptr<WorkerClient> workers_;
  std::unique_ptr<RouterCore> core_;
  std::unique_ptr<EdgeService> edge_;
  std::unique_ptr<InferenceService> inference_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<WorkerDirectory> directory_;
  std::unique_ptr<FileWatch> workers_watch_;
  std::unique_ptr<AdminServer> admin_;
  std::string grpc_address_;
  std::optional<bool> told_serving_;  // owner thread only
  BrokenFiles broken_files_;
  bool started_ = false;
  std::unique_ptr<FileWatch> config_watch_;  // last: uses what is above
};

Status Process::Init() {
  CHOIR_RETURN_IF_ERROR(LoadParts());
  const WorkerClientTls worker_tls = {.identity = tls_, .options = options_.tls};
  workers_ = std::make_unique<WorkerClient>(options_.settings.router_id, options_.worker,
                                            worker_tls, &loop_, &Clock::Real());
  edge_ = std::make_unique<EdgeService>(options_.edge, tls_, &loop_);
  inference_ = std::make_unique<InferenceService>(options_.inference, tls_, &loop_);
  RouterParts parts;
  tracing_ =
      std::make_unique<Tracing>(options_.trace, "router", options_.settings.router_id, &metrics_);
  parts.tracer = tracing_->tracer();
  parts.clock = &Clock::Real();
  parts.model = model_.get();
  parts.identity = identity_.get();
  parts.limits = limits_.get();
  parts.admission = admission_.get();
  parts.audit = audit_log_ ? audit_log_.get() : no_audit_.get();
  if (audit_log_) parts.used_names = audit_log_->TakeNames();
  parts.metrics = metrics_parts_.get();
  parts.content = options_.followed.content;
  parts.results = results_.get();
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
  FollowConfig();
  return StartAdmin();
}

Status Process::LoadParts() {
  RouterSettings& settings = options_.settings;
  settings.model_name =
      options_.model_name.empty() ? NameOfDirectory(options_.model_dir) : options_.model_name;
  settings.router_id = fmt::format("router-{:016x}", Random64());
  options_.followed.policy.seed = Random64();
  settings.policy = options_.followed.policy;
  struct stat st = {};
  if (stat((options_.model_dir + "/config.json").c_str(), &st) == 0)
    settings.model_created = st.st_mtim.tv_sec;
  metrics_parts_ = std::make_unique<RouterMetrics>(&metrics_, settings.model_name);
  CHOIR_ASSIGN_OR_RETURN(tls_, TlsIdentity::Open(options_.tls, kRouterRole));
  tls_report_ = std::make_unique<TlsReport>(
      &metrics_, std::map<std::string, std::shared_ptr<TlsIdentity>>{{"grpc", tls_}});
  if (tls_ != nullptr) tls_->Watch(kTlsInterval);
  CHOIR_ASSIGN_OR_RETURN(model_, ModelText::Load(options_.model_dir, options_.default_max_tokens));
  CHOIR_ASSIGN_OR_RETURN(
      identity_,
      Identity::Open(options_.identity, [this](const std::string& file, const Status& status) {
        broken_files_.OnRead(file, status);
      }));
  identity_->SetPrices(options_.followed.limits.prices != TokenPrices{});
  CHOIR_RETURN_IF_ERROR(OpenLimits());
  CHOIR_ASSIGN_OR_RETURN(
      results_, MakeResultCache(options_.results, options_.redis, OnLoop(), &Clock::Real()));
  admission_ =
      std::make_unique<Admission>(AdmissionOf(options_.followed.limits), options_.requests_max);
  return OpenAudit();
}

Status Process::OpenLimits() {
  CHOIR_RETURN_IF_ERROR(OpenRedis(&options_.redis, options_.tls));
  CHOIR_ASSIGN_OR_RETURN(auto backend, MakeLimitBackend(options_.redis, options_.settings.router_id,
                                                        OnLoop(), &Clock::Real()));
  limits_ = MakeTenantLimits(options_.followed.limits, std::move(backend));
  return absl::OkStatus();
}

void Process::FollowConfig() {
  if (options_.config_file.empty()) return;
  const auto read = [this, changes = ConfigChanges(options_.config_file)](
                        const std::string& text) mutable -> Status {
    if (text.empty()) return InvalidArgument("{}: is empty", options_.config_file);
    CHOIR_ASSIGN_OR_RETURN(FollowedOptions now, options_.read_again());
    now.next_start = changes.OnRead(text);
    return loop_.Post([this, now = std::move(now)] { TakeUp(now); }), absl::OkStatus();
  };
  config_watch_ = std::make_unique<FileWatch>(options_.config_file, read);
  config_watch_->OnResult(
      [this](const Status& status) { broken_files_.OnRead(options_.config_file, status); });
  config_watch_->Start(std::chrono::milliseconds(250));
}

// Owner thread.
void Process::TakeUp(FollowedOptions now) {
  FollowedOptions& before = options_.followed;
  now.policy.seed = before.policy.seed;
  if (now.limits != before.limits) {
    CHOIR_LOG(info, "{}: new limits, {} tenants", options_.config_file, now.limits.tenants.size());
    core_->SetAdmission(AdmissionOf(now.limits));
    limits_->SetConfig(now.limits);
    identity_->SetPrices(now.limits.prices != TokenPrices{});
  }
  core_->SetPolicy(now.policy);
  core_->SetContent(now.content);
  core_->SetNextStart(now.next_start);
  before = std::move(now);
}

Status Process::OpenAudit() {
  if (options_.audit.store.dir.empty()) return absl::OkStatus();
  RouterMetrics* const metrics = metrics_parts_.get();
  AuditObserver observer;
  observer.record = [metrics](const std::string& phase) { metrics->OnAuditRecord(phase); };
  observer.fsync = [metrics](double seconds) { metrics->audit_fsync_seconds.Observe(seconds); };
  observer.backlog = [metrics](size_t n) { metrics->audit_backlog.Set(static_cast<double>(n)); };
  observer.dropped = [metrics](uint64_t n) { metrics->audit_dropped.Increment(double(n)); };
  CHOIR_ASSIGN_OR_RETURN(
      audit_log_, AuditLog::Open(options_.audit, std::move(observer), OnLoop(), &Clock::Real()));
  audit_log_->Admin("start", fmt::format("{} serves {}", kVersion, options_.settings.model_name));
  return absl::OkStatus();
}

Status Process::StartServer() {
  grpc::EnableDefaultHealthCheckService(true);
  if (options_.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  // Clients of the public service need no certificate; the edge asks for it.
  CHOIR_ASSIGN_OR_RETURN(auto credentials,
                         MakeServerCredentials(tls_, ClientCertificate::kOptional));
  builder.AddListeningPort(options_.listen, std::move(credentials), &port);
  builder.RegisterService(edge_.get());
  builder.RegisterService(inference_.get());
  builder.SetMaxReceiveMessageSize(kReceiveBytesMax);
  builder.SetMaxSendMessageSize(-1);
  // Two processes on one port would share its connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
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
  for (const std::string& address : options_.workers)
    CHOIR_RETURN_IF_ERROR(CheckWorkerAddress(address));
  directory_ = std::make_unique<WorkerDirectory>(
      options_.dns_interval, LookUpWorkers, [this](const std::vector<std::string>& addresses) {
        loop_.Post([this, addresses] { workers_->SetAddresses(addresses); });
      });
  if (options_.workers_file.empty()) {
    directory_->SetEntries(options_.workers);
    return absl::OkStatus();
  }
  workers_watch_ =
      std::make_unique<FileWatch>(options_.workers_file, [this](const std::string& text) {
        auto listed = ParseWorkers(text, options_.workers_file);
        if (!listed.ok()) return listed.status();
        std::vector<std::string> all = options_.workers;
        all.insert(all.end(), listed->begin(), listed->end());
        directory_->SetEntries(std::move(all));
        return absl::OkStatus();
      });
  CHOIR_RETURN_IF_ERROR(workers_watch_->Poll());
  workers_watch_->OnResult(
      [this](const Status& status) { broken_files_.OnRead(options_.workers_file, status); });
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
  const bool good = tls_report_->Refresh() && broken_files_.none();
  metrics_parts_->reload_success.Set(good ? 1 : 0);
  metrics_parts_->SetAuditDisk(options_.audit.store.dir);
  return metrics_.Text();
}

std::string Process::StatusJson() {
  auto json = std::make_shared<std::string>();
  if (loop_.Call([this, json] { *json = core_->StatusJson(); }, kAdminWait)) {
    if (tls_ == nullptr) return *json;
    auto page = nlohmann::ordered_json::parse(*json);
    page["tls"] = tls_report_->Json();
    return page.dump();
  }
  return R"({"part":"router","ready":false,"reason":"the owner thread does not answer"})";
}

void Process::AnnounceDrain() {
  loop_.Post([this] { core_->AnnounceDrain(); });
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
  config_watch_.reset();
  directory_.reset();
  admin_.reset();
  loop_.Call(
      [this] {
        core_->BeginDrain();
        core_->AbortAll();
        workers_->EachRound();  // the cancels go out before the streams end
      },
      kStopWait);
  CloseAudit();
  loop_.Call(
      [this] {
        edge_->EachRound();
        workers_->Close();
        edge_->Close();
      },
      kStopWait);
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  edge_->WaitClosed();
  inference_->WaitClosed();
  workers_->WaitClosed();
  loop_.Stop();
}

// Every request's end goes on record, and its client hears of it.
void Process::CloseAudit() {
  if (!audit_log_) return;
  // Twice: an intent's answer is what lets its request end.
  for (int i = 0; i < 2; ++i) {
    auto done = std::make_shared<std::promise<void>>();
    audit_log_->Flush([done] { done->set_value(); });
    (void)done->get_future().wait_for(kStopWait);
  }
  audit_log_->Admin("stop", "");
  audit_log_->Close();
}

}  // namespace

StatusOr<std::unique_ptr<RouterProcess>> RouterProcess::Start(RouterOptions options) {
  auto process = std::make_unique<Process>(std::move(options));
  CHOIR_RETURN_IF_ERROR(process->Init());
  return process;
}

}  // namespace choir
