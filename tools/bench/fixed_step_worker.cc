// choir-fixed-step-worker: a worker whose model is a clock. Takes choir-worker's flags and speaks
// its protocol with the real engine, but a step ends when CLOCK_MONOTONIC next reaches a multiple
// of CHOIR_FIXED_STEP_US (environment, microseconds, default 20000): so a client on the same
// machine knows when each token left the model, and the delay that router and gateway add can be
// measured. Single ranks only; letters as answers. For `choir bench router` and tests, never
// installed.
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "common/base/log.h"
#include "common/base/version.h"
#include "common/http/admin_server.h"
#include "common/rpc/callback_thread.h"
#include "tools/bench/weightless_model.h"
#include "worker/comm/local_collectives.h"
#include "worker/config.h"
#include "worker/engine/engine.h"
#include "worker/model/config/model_config.h"
#include "worker/rpc/worker_server.h"

namespace choir {
namespace {

constexpr char kNumericsId[] = "fixed-step";
constexpr int32_t kFirstLetter = 8 + 'a';  // of the byte tokenizer of random models
constexpr int32_t kLetters = 26;

class ClockModel final : public Model {
 public:
  ClockModel(int64_t vocab, int64_t context, int64_t step_ns)
      : loaded_(kNumericsId, vocab, context), step_ns_(step_ns) {}
  const LoadedModel& loaded() const override { return loaded_; }

  // The letter follows from token and position: the same on every worker, as failover needs.
  Status Forward(const ModelBatch& batch, ExpertExchange*, const Stream&) override {
    const int64_t vocab = loaded_.info().vocab;
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      float* logits = batch.logits.f32() + static_cast<int64_t>(i) * vocab;
      std::fill_n(logits, vocab, 0.0f);
      const auto row = static_cast<size_t>(batch.logit_rows[i]);
      const int32_t letter = (batch.tokens[row] + batch.positions[row] * 7 + 1) % kLetters;
      logits[kFirstLetter + letter] = 10.0f;
    }
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t ns = now.tv_sec * 1'000'000'000 + now.tv_nsec;
    const int64_t end = (ns / step_ns_ + 1) * step_ns_;
    const timespec until{end / 1'000'000'000, end % 1'000'000'000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) != 0) {
    }
    return absl::OkStatus();
  }

  const ExpertCounts& expert_counts() const override { return expert_counts_; }

 private:
  const bench::WeightlessModel loaded_;
  const ExpertCounts expert_counts_;
  const int64_t step_ns_;
};

int64_t StepNs() {
  const char* text = std::getenv("CHOIR_FIXED_STEP_US");
  const int64_t us = text == nullptr ? 20000 : std::atoll(text);
  CHOIR_CHECK(us > 0);
  return us * 1000;
}

Status Serve(const WorkerConfig& config, const sigset_t& ends) {
  CHOIR_ASSIGN_OR_RETURN(const ModelConfig model, ReadModelConfig(config.model_dir));
  CHOIR_ASSIGN_OR_RETURN(
      auto admin, AdminServer::Start(config.admin, {.metrics = [] { return std::string(); },
                                                    .live = [] { return absl::OkStatus(); },
                                                    .ready = [] { return absl::OkStatus(); },
                                                    .status = [] { return std::string("{}"); }}));
  WorkerServerOptions options{.listen = config.listen};
  options.identity.group = static_cast<uint32_t>(config.group);
  options.identity.incarnation =
      static_cast<uint64_t>(Clock::Real().Wall().time_since_epoch().count());
  CHOIR_ASSIGN_OR_RETURN(const auto server, WorkerServer::Start(options));
  const EngineOptions engine_options{.step_tokens = config.step_tokens,
                                     .sequences_max = config.sequences_max,
                                     .waiting_max = config.waiting_max,
                                     .kv_bytes = config.kv_bytes};
  CHOIR_ASSIGN_OR_RETURN(
      const auto engine,
      Engine::MakeWithModel(
          engine_options, std::make_unique<ClockModel>(model.vocab, model.positions_max, StepNs()),
          nullptr, 1, [&server](const StepOutput& output) { server->Deliver(output); }));
  server->Open({.model_id = config.model_name,
                .numerics_id = kNumericsId,
                .context_length = model.positions_max,
                .vocab_size = static_cast<int32_t>(model.vocab),
                .kv_tokens_max = config.kv_bytes / 4},
               engine.get());
  engine->SetEpoch(MakeSingleCollectives(1));
  std::jthread runs([&engine] { engine->Run(); });
  server->SetStatus({.ready = true, .epoch = 1});
  std::printf("listening grpc=%s admin=%s\n", server->address().c_str(), admin->address().c_str());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&ends, &signal);
  engine->Stop();
  runs.join();
  server->Shutdown(std::chrono::seconds(1));
  return absl::OkStatus();
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) {
  choir::UseOneCallbackThread();
  choir::WorkerConfig config;
  if (const auto code = choir::ReadWorkerConfig(argc, argv, &config)) return *code;
  (void)choir::InitLog("fixed-step-worker", config.log.level, config.log.format);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  const choir::Status status = choir::Serve(config, ends);
  if (status.ok()) return 0;
  std::fprintf(stderr, "choir-fixed-step-worker: %s\n", choir::MessageOf(status).c_str());
  return 1;
}
