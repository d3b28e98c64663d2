#include "worker/worker_process.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "common/base/version.h"
#include "common/http/failed_start.h"
#include "worker/comm/local_address.h"
#include "worker/comm/local_collectives.h"
#include "worker/expert_options.h"
#include "worker/host_identity.h"
#include "worker/model/exchange_maker.h"
#include "worker/model_options.h"

namespace choir {
namespace {

constexpr Duration kTlsInterval = std::chrono::milliseconds(500);
constexpr Duration kShutdownGrace = std::chrono::seconds(2);  // for the last words to routers

std::string MiB(int64_t bytes) {
  return fmt::format("{:.0f}", static_cast<double>(bytes) / 1048576.0);
}

uint64_t WallNanoseconds() {
  return static_cast<uint64_t>(Clock::Real().Wall().time_since_epoch().count());
}

}  // namespace

WorkerProcess::WorkerProcess(WorkerConfig config, std::function<void()> on_change)
    : config_(std::move(config)),
      on_change_(std::move(on_change)),
      incarnation_(WallNanoseconds()),
      metrics_(config_.group, config_.rank, config_.ranks),
      tracing_(config_.trace, "worker", fmt::format("g{}r{}", config_.group, config_.rank),
               metrics_.registry()),
      progress_(config_.step_timeout) {
  facts_.failed_before = WhyFailedBefore();
  metrics_.registry()->SetStartFailed(!facts_.failed_before.empty());
  status_ = StatusOf(facts_);
}

WorkerProcess::~WorkerProcess() { Stop(); }

AdminHandlers WorkerProcess::Handlers() {
  return {.metrics =
              [this] {
                std::unique_lock lock(mu_);
                const WorkerStatus status = status_;
                if (server_ != nullptr) metrics_.SetGhosts(server_->num_ghosts());
                lock.unlock();
                metrics_.SetReloadSuccess(tls_report_->Refresh());
                return metrics_.Text(Stats(), status);
              },
          .live =
              [this] {
                const EngineStats stats = Stats();
                std::lock_guard lock(mu_);
                return progress_.Observe(stats.steps, stats.load.running + stats.load.waiting,
                                         facts_.group.serving, Clock::Real().Now());
              },
          .ready = [this]() -> Status {
            std::lock_guard lock(mu_);
            if (status_.ready && !status_.draining) return absl::OkStatus();
            return Unavailable("{}", status_.reason);
          },
          .status = [this] { return StatusJson(); }};
}

Status WorkerProcess::Listen() {
  CHOIR_ASSIGN_OR_RETURN(tls_, TlsIdentity::Open(config_.tls, kWorkerRole));
  tls_report_ = std::make_unique<TlsReport>(
      metrics_.registry(), std::map<std::string, std::shared_ptr<TlsIdentity>>{{"grpc", tls_}});
  if (tls_ != nullptr) tls_->Watch(kTlsInterval);
  CHOIR_ASSIGN_OR_RETURN(admin_, AdminServer::Start(config_.admin, Handlers()));
  WorkerServerOptions options{.listen = config_.listen,
                              .identity = {.group = static_cast<uint32_t>(config_.group),
                                           .rank = static_cast<uint32_t>(config_.rank),
                                           .group_size = static_cast<uint32_t>(config_.ranks),
                                           .incarnation = incarnation_}};
  options.on_drain = [this] { BeginDrain(); };
  options.tls = tls_;
  options.tracer = tracing_.tracer();
  CHOIR_ASSIGN_OR_RETURN(auto server, WorkerServer::Start(options));
  {
    std::lock_guard lock(mu_);
    server_ = std::move(server);
  }
  Learn([](WorkerFacts&) {});  // tells the server, too
  std::printf("listening grpc=%s admin=%s\n", server_->address().c_str(),
              admin_->address().c_str());
  std::fflush(stdout);
  return absl::OkStatus();
}

void WorkerProcess::OnLoadProgress(int64_t done, int64_t total) {
  metrics_.LoadProgress(done, total);
  const std::string text = fmt::format("loading {} of {} MiB", MiB(done), MiB(total));
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const MonoTime now = Clock::Real().Now();
  const Duration interval = terminal ? std::chrono::milliseconds(100) : std::chrono::seconds(2);
  if (done < total && now - progress_shown_ < interval) return;
  progress_shown_ = now;
  if (terminal) {
    std::fprintf(stderr, "\r%s%s", text.c_str(), done >= total ? "\n" : "");
  } else {
    CHOIR_LOG(info, "{}", text);
  }
  Learn([&](WorkerFacts& facts) { facts.loading = text; });
}

Status WorkerProcess::OpenDevice() {
  CHOIR_ASSIGN_OR_RETURN(backend_, OpenBackend(BackendOptionsOf(config_)));
  if (!backend_.why_cpu.empty()) {
    CHOIR_LOG(info, "--device auto: the CPU computes: {}", backend_.why_cpu);
  }
  if (!backend_.why_tensor.empty()) {
    CHOIR_LOG(warn, "--cuda-kernels auto: tensor: hopper fails here: {}", backend_.why_tensor);
  }
  device_join_ = MakeDeviceJoin(backend_, config_, [this] { return AddressForRanks(); });
  if (CpuExpertsOf(config_) == 0) return absl::OkStatus();
  return OpenHostKernels(config_.cpu_path, &backend_);
}

Status WorkerProcess::Load() {
  const MonoTime start = Clock::Real().Now();
  CHOIR_RETURN_IF_ERROR(CheckExpertCountsFolder(config_));
  CHOIR_RETURN_IF_ERROR(OpenDevice());
  LoadOptions load = LoadOptionsOf(config_, backend_);
  load.progress = [this](int64_t done, int64_t total) { OnLoadProgress(done, total); };
  load.check = [this](const LoadedModel& sizes) {
    return Engine::Check(OptionsOfEngine(), sizes, static_cast<int>(config_.ranks));
  };
  load.beside_weights = [this](std::shared_ptr<const LoadedModel> sizes) {
    return Engine::BytesBeside(OptionsOfEngine(), std::move(sizes), backend_.kernels.get(),
                               static_cast<int>(config_.ranks));
  };
  CHOIR_ASSIGN_OR_RETURN(auto loaded, LoadModel(load, *backend_.kernels));
  const MonoTime read = Clock::Real().Now();
  metrics_.LoadSeconds("weights", Seconds(read - start));
  const LoadedModel& model = *loaded;
  CHOIR_RETURN_IF_ERROR(MakeEngine(std::move(loaded)));
  metrics_.LoadSeconds("engine", Seconds(Clock::Real().Now() - read));
  CHOIR_LOG(info, "{} ({}) is loaded: {} on {}, {} threads, weights {}, numerics id {}",
            config_.model_name, model.info().family, model.info().kernels,
            backend_.device()->Name(), config_.threads, model.info().weights_digest,
            model.numerics_id());
  const std::string why = WhyNoGraphs(config_, *backend_.device(), model.info());
  if (!why.empty()) CHOIR_LOG(info, "no step runs as a CUDA graph: {}", why);
  Serve(model);
  return absl::OkStatus();
}

EngineOptions WorkerProcess::OptionsOfEngine() const {
  return EngineOptionsOf(config_, device_join_ ? device_join_->rows() : RowPath::kHost);
}

Status WorkerProcess::MakeEngine(std::shared_ptr<const LoadedModel> loaded) {
  CHOIR_ASSIGN_OR_RETURN(engine_,
                         Engine::Make(OptionsOfEngine(), std::move(loaded), backend_.kernels.get(),
                                      static_cast<int>(config_.ranks),
                                      [this](StepOutput output) { OnOutput(std::move(output)); }));
  engine_->OnDeviceFailed([this](const Status& status) { OnDeviceFailed(status); });
  engine_->OnEpochFailed([this](uint64_t generation, const Status& status) {
    const std::lock_guard lock(group_mu_);
    if (group_ != nullptr) group_->CollectiveFailed(generation, status);
  });
  return absl::OkStatus();
}

void WorkerProcess::Serve(const LoadedModel& loaded) {
  const ModelInfo& info = loaded.info();
  const EngineStats stats = engine_->stats();
  self_test_ = std::make_unique<SelfTestRun>(info.vocab, [this](const Status& result) {
    if (!result.ok()) CHOIR_LOG(error, "the self-test failed: {}", MessageOf(result));
    Learn([&](WorkerFacts& facts) {
      facts.self_test = result.ok() ? SelfTest::kPassed : SelfTest::kFailed;
      facts.self_test_error = MessageOf(result);
    });
  });
  server_->Open(
      {.model_id = config_.model_name,
       .numerics_id = loaded.numerics_id(),
       .context_length = config_.context_length > 0 ? config_.context_length : info.context_length,
       .vocab_size = static_cast<int32_t>(info.vocab),
       .kv_tokens_max = stats.kv_blocks_total * static_cast<uint64_t>(EngineOptions{}.block_tokens),
       .kv_block_tokens =
           config_.prefix_cache ? static_cast<uint32_t>(EngineOptions{}.block_tokens) : 0,
       .running_max = static_cast<uint32_t>(std::min(config_.sequences_max, config_.step_tokens))},
      engine_.get());
  {
    std::lock_guard lock(mu_);
    open_engine_ = engine_.get();
    weights_digest_ = info.weights_digest;
  }
  metrics_.registry()->SetStartFailed(false);
  Learn([](WorkerFacts& facts) { facts.loading.clear(); });
  if (config_.ranks > 1) {
    JoinGroup(loaded);
  } else {
    const uint64_t epoch = WallNanoseconds() / 1000000;
    OnEpoch(MakeSingleCollectives(epoch));
    Learn([epoch](WorkerFacts& facts) { facts.group = {.serving = true, .epoch = epoch}; });
  }
  engine_thread_ = std::jthread([this] { engine_->Run(); });
}

StatusOr<std::string> WorkerProcess::AddressForRanks() {
  if (address_for_ranks_.ok()) return address_for_ranks_;  // names may take seconds to look up
  address_for_ranks_ = MeshAddress({.group_listen = config_.group_listen,
                                    .advertise = config_.advertise,
                                    .listen = config_.listen,
                                    .leader = config_.leader});
  return address_for_ranks_;
}

std::string WorkerProcess::AdvertisedAddress() {
  if (!config_.advertise.empty()) return config_.advertise;
  const std::string& listening = server_->address();
  const StatusOr<std::string> host = AddressForRanks();
  if (!IsWildcard(HostOf(listening)) || !host.ok()) return listening;
  const bool v6 = host->find(':') != std::string::npos;
  return fmt::format("{}{}", v6 ? "[" + *host + "]" : *host,
                     listening.substr(listening.rfind(':')));
}

void WorkerProcess::JoinGroup(const LoadedModel& loaded) {
  GroupClientOptions options;
  options.leader = config_.rank == 0 ? server_->address() : config_.leader;
  options.tls = tls_;
  options.tls_options = config_.tls;
  options.self = {.protocol_version = kProtocolVersion,
                  .build = kVersion,
                  .group = static_cast<uint32_t>(config_.group),
                  .rank = static_cast<uint32_t>(config_.rank),
                  .group_size = static_cast<uint32_t>(config_.ranks),
                  .incarnation = incarnation_,
                  .numerics_id = loaded.numerics_id(),
                  .model = config_.model_name,
                  .dtype = loaded.compute() == Compute::kF32 ? "f32" : "bf16",
                  .kernels = loaded.info().kernels,
                  .placement = PlacementOf(config_),
                  .host = HostIdentity(),
                  .pid = getpid(),
                  .address = AdvertisedAddress()};
  options.collectives = {.timeout = config_.collective_timeout, .ring_bytes = config_.ring_bytes};
  options.heartbeat_timeout = config_.heartbeat_timeout;
  options.mesh_address = [this] { return AddressForRanks(); };
  if (device_join_ != nullptr) {
    const ModelInfo& info = loaded.info();
    const DeviceSlotSizes slots =
        SlotSizesOf(SlotOptionsOf(config_), {config_.ranks, info.top_k, info.hidden});
    options.join_devices = [this, slots](auto* hosts) { return device_join_->Join(hosts, slots); };
  }
  options.on_epoch = [this](const std::shared_ptr<Collectives>& c) { OnEpoch(c); };
  options.on_status = [this](const GroupStatus& group) {
    Learn([&](WorkerFacts& facts) { facts.group = group; });
  };
  if (config_.rank == 0) {
    server_->LeadGroup({.leader = options.self,
                        .first_epoch = WallNanoseconds() / 1000000,
                        .heartbeat_timeout = config_.heartbeat_timeout});
  }
  SetGroup(GroupClient::Start(std::move(options)));
}

void WorkerProcess::OnEpoch(const std::shared_ptr<Collectives>& collectives) {
  self_test_->Forget();
  engine_->SetEpoch(collectives);
  bool passed = false;
  {
    std::lock_guard lock(mu_);
    collectives_ = collectives ? collectives->name() : "";
    rows_by_ = collectives && device_join_ ? device_join_->path() : "";
    passed = facts_.self_test == SelfTest::kPassed;
  }
  if (collectives != nullptr && !passed) self_test_->Start(engine_.get());
}

void WorkerProcess::OnOutput(StepOutput output) {
  self_test_->Look(&output, engine_.get());
  server_->Deliver(output);
  metrics_.AfterStep(engine_->stats());
}

void WorkerProcess::Learn(const std::function<void(WorkerFacts&)>& change) {
  std::lock_guard lock(mu_);
  change(facts_);
  const bool was_ready = status_.ready;
  status_ = StatusOf(facts_);
  if (server_ != nullptr) server_->SetStatus(status_);  // under the lock: states must not overtake
  if (status_.ready && !was_ready) CHOIR_LOG(info, "ready in epoch {}", status_.epoch);
  on_change_();
}

void WorkerProcess::BeginDrain() {
  Learn([](WorkerFacts& facts) {
    if (!facts.draining) CHOIR_LOG(info, "draining");
    facts.draining = true;
  });
}

// Nothing can be computed here any more: the main thread ends the process, and whoever started it
// starts it again.
void WorkerProcess::OnDeviceFailed(const Status& status) {
  CHOIR_LOG(error, "the device failed, this process ends to be started again: {}",
            MessageOf(status));
  Learn([&](WorkerFacts& facts) { facts.device_error = MessageOf(status); });
}

bool WorkerProcess::failed() const {
  std::lock_guard lock(mu_);
  return !facts_.device_error.empty();
}

bool WorkerProcess::NeedsTicks() const {
  std::lock_guard lock(mu_);
  return status_.draining;
}

bool WorkerProcess::DrainIsOver() {
  WorkerFacts facts;
  {
    std::lock_guard lock(mu_);
    facts = facts_;
  }
  const bool empty = server_->num_sequences() == 0;
  if (group_ != nullptr) {
    DrainStage own = DrainStage::kNone;
    if (facts.draining) {
      own = empty ? DrainStage::kDone : DrainStage::kRunning;
    } else if (facts.group.group_drain != DrainStage::kNone && empty) {
      own = DrainStage::kIdle;
    }
    group_->SetDrain(own);
  }
  if (!facts.draining || !empty) return false;
  // Nobody waits for a rank that serves no epoch.
  return group_ == nullptr || !facts.group.serving || facts.group.group_drain == DrainStage::kDone;
}

EngineStats WorkerProcess::Stats() const {
  Engine* engine = nullptr;
  {
    std::lock_guard lock(mu_);
    engine = open_engine_;
  }
  return engine == nullptr ? EngineStats{} : engine->stats();
}

std::string WorkerProcess::StatusJson() const {
  const EngineStats stats = Stats();
  std::lock_guard lock(mu_);
  return nlohmann::ordered_json{{"part", "worker"},
                                {"worker", fmt::format("g{}r{}", config_.group, config_.rank)},
                                {"model", config_.model_name},
                                {"weights_digest", weights_digest_},
                                {"group", config_.group},
                                {"rank", config_.rank},
                                {"ranks", config_.ranks},
                                {"ready", status_.ready && !status_.draining},
                                {"draining", status_.draining},
                                {"reason", status_.reason},
                                {"epoch", status_.epoch},
                                {"collectives", collectives_},
                                {"rows_by", rows_by_},
                                {"routers", server_ == nullptr ? 0 : server_->num_routers()},
                                {"running", stats.load.running},
                                {"waiting", stats.load.waiting},
                                {"kv_blocks",
                                 {{"free", stats.kv_blocks_free},
                                  {"held", stats.kv_blocks_held},
                                  {"cached", stats.kv_blocks_cached},
                                  {"total", stats.kv_blocks_total}}},
                                {"steps", stats.steps},
                                {"last_step", stats.last_step_wall},
                                {"ledger_difference", stats.ledger_difference},
                                {"tls", tls_report_->Json()}}
      .dump();
}

void WorkerProcess::Stop() {
  SetGroup(nullptr);
  if (engine_ != nullptr) engine_->Stop();
  if (engine_thread_.joinable()) {
    engine_thread_.join();
    LeaveExpertCounts(config_, engine_->expert_counts());
  }
  if (server_ != nullptr) server_->Shutdown(kShutdownGrace);
  admin_.reset();
}

}  // namespace choir
