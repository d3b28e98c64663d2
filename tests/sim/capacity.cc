#include "tests/sim/capacity.h"

#include <malloc.h>

#include <cstdio>
#include <deque>

#include "common/base/check.h"
#include "common/base/version.h"
#include "tests/sim/sim_router.h"
#include "tests/sim/sim_world.h"

namespace choir::sim {
namespace {

// A client that takes everything.
class Sink final : public ClientStream {
 public:
  bool Accepted(const AcceptedInfo& /*info*/) override { return true; }
  bool Delta(ChoiceDelta /*delta*/) override { return true; }
  void Done(const Usage& /*usage*/) override { ++ended; }
  void Fail(const ApiError& error, const FailedInfo& /*info*/) override {
    CHOIR_CHECK(error.http == 0);
  }
  static inline uint64_t ended = 0;
};

class Crowd final : private WorkerLinks {
 public:
  explicit Crowd(uint32_t ranks) {
    RouterParts parts;
    parts.clock = &Clock::Real();
    parts.model = Statics().model;
    parts.identity = Statics().identity;
    parts.limits = limits_.get();
    parts.admission = admission_.get();
    parts.audit = audit_.get();
    parts.metrics = Statics().metrics;
    parts.links = this;
    parts.run_text = [](const auto& work, const auto& then) {
      work();
      then();
      return true;
    };
    parts.random = [this] { return ++random_ * 0x9E3779B97F4A7C15u; };
    core_ = std::make_unique<RouterCore>(RouterSettings{.router_id = "crowd", .model_name = "sim"},
                                         std::move(parts));
    for (uint32_t i = 0; i < ranks; ++i) AddRank(i);
  }

  void Open() {
    RequestInput input;
    input.bearer = kSecret;
    input.model = "sim";
    input.content = PromptIds{{5, 6, 7, 8}};
    input.sampling.max_tokens = 4;
    input.sampling.ignore_eos = true;
    core_->Open(std::move(input), sink_);
  }
  // One token for the oldest sequence that waits for one; it goes on.
  void Token() {
    const auto [worker, id] = submitted_.front();
    submitted_.pop_front();
    StepReport step;
    step.epoch = 1;
    step.updates.push_back({.id = id, .token_ids = {9}});
    core_->OnWorkerStep(worker, step);
  }

 private:
  void AddRank(uint32_t i) {
    const WorkerIndex worker = core_->AddWorker(fmt::format("rank:{}", i));
    core_->OnWorkerConnecting(worker, 1);
    WorkerIdentity identity;
    identity.protocol_version = kProtocolVersion;
    identity.worker_id = fmt::format("g{}r0", i);
    identity.group = i;
    identity.group_size = 1;
    identity.model_id = "sim";
    identity.numerics_id = "n";
    identity.context_length = 256;
    identity.vocab_size = static_cast<uint32_t>(Statics().model->vocab_size());
    CHOIR_CHECK(core_->OnWorkerHello(worker, identity).ok());
    core_->OnWorkerState(worker, {.ready = true, .epoch = 1});
  }

  void Submit(WorkerIndex worker, SequenceSubmit submit) override {
    submitted_.emplace_back(worker, submit.id);
  }
  void Cancel(WorkerIndex /*worker*/, SequenceId /*id*/) override {}
  void Reconcile(WorkerIndex /*worker*/, const std::vector<SequenceId>& /*ids*/) override {}
  void Disconnect(WorkerIndex /*worker*/, const std::string& /*reason*/) override {}

  std::unique_ptr<Limits> limits_ = MakeNoLimits();
  std::unique_ptr<Admission> admission_ =
      std::make_unique<Admission>(AdmissionConfig(), UINT64_MAX);
  std::unique_ptr<Audit> audit_ = MakeNoAudit();
  uint64_t random_ = 0;
  std::shared_ptr<Sink> sink_ = std::make_shared<Sink>();
  std::deque<std::pair<WorkerIndex, SequenceId>> submitted_;
  std::unique_ptr<RouterCore> core_;
};

}  // namespace

void RunCapacity(const CapacityOptions& options) {
  constexpr uint64_t kSample = 500;
  Crowd crowd(options.ranks);
  const size_t empty = mallinfo2().uordblks;
  std::printf("%u ranks\n%12s %14s %14s %14s\n", options.ranks, "open", "us to open", "us a token",
              "bytes each");
  uint64_t open = 0;
  for (uint64_t level = 1000; level <= options.requests; level *= 10) {
    while (open < level - kSample) crowd.Open(), ++open;
    const MonoTime began = Clock::Real().Now();
    while (open < level) crowd.Open(), ++open;
    const MonoTime opened = Clock::Real().Now();
    for (uint64_t i = 0; i < kSample; ++i) crowd.Token();
    const MonoTime stepped = Clock::Real().Now();
    std::printf("%12llu %14.2f %14.2f %14.0f\n", static_cast<unsigned long long>(open),
                Seconds(opened - began) * 1e6 / kSample, Seconds(stepped - opened) * 1e6 / kSample,
                static_cast<double>(mallinfo2().uordblks - empty) / static_cast<double>(open));
    std::fflush(stdout);
  }
}

}  // namespace choir::sim
