#include "tests/sim/sim_rank.h"

#include <utility>

#include "tests/support/fake_model.h"
#include "worker/engine/sequence_table.h"

namespace choir::sim {
namespace {

TableLimits LimitsOf(const SimModel& model, const RankOptions& options) {
  return {.scheduler = {.step_tokens = options.step_tokens,
                        .sequences_max = options.sequences_max,
                        .block_tokens = options.block_tokens,
                        .blocks_total = options.kv_blocks},
          .context_length = model.context_length,
          .vocab = model.vocab,
          .prefix_cache = options.prefix_cache};
}

}  // namespace

// What dies with the process. The hub sees it as the engine.
class SimRank::Process final : public Engine, public std::enable_shared_from_this<Process> {
 public:
  Process(SimRank* rank, uint64_t incarnation)
      : rank_(rank),
        table_(LimitsOf(rank->model_, rank->options_)),
        sampler_(rank->model_.vocab),
        hub_(ServerOptions(*rank, incarnation), *rank->time_) {}

  void Open() {
    const SimModel& model = rank_->model_;
    hub_.Open({.model_id = "sim",
               .numerics_id = "sim-numerics",
               .context_length = model.context_length,
               .vocab_size = model.vocab,
               .kv_tokens_max =
                   static_cast<uint64_t>(rank_->options_.kv_blocks * rank_->options_.block_tokens),
               .running_max = static_cast<uint32_t>(rank_->options_.sequences_max)},
              this);
  }
  void SetState(uint64_t epoch, const std::string& reason) {
    if (epoch != epoch_) {
      table_.EndAll(Finish::kLost, &updates_);
      Emit();
    }
    epoch_ = epoch;
    hub_.SetStatus({.ready = epoch != 0, .epoch = epoch, .reason = reason});
    Wake();
  }

  Status Submit(SequenceRequest request) override {
    inbox_.push_back(std::move(request));
    Wake();
    return absl::OkStatus();
  }
  void Cancel(SequenceId id) override {
    cancels_.push_back(id);
    Wake();
  }
  EngineStats stats() const override { return {}; }
  void SetEpoch(std::shared_ptr<Collectives> /*collectives*/) override {}
  void OnEpochFailed(std::function<void(uint64_t, Status)> /*callback*/) override {}
  void OnDeviceFailed(std::function<void(Status)> /*callback*/) override {}
  void Run() override {}
  void Stop() override {}

  RouterHub& hub() { return hub_; }
  uint64_t epoch() const { return epoch_; }
  uint64_t steps() const { return steps_; }
  std::string Leftovers() const {
    const EngineLoad load = table_.load();
    const BlockPool& blocks = table_.blocks();
    if (load.running + load.waiting == 0 && inbox_.empty() && blocks.num_held() == 0 &&
        blocks.LedgerDifference() == 0 && hub_.num_sequences() == 0) {
      return "";
    }
    return fmt::format("running {} waiting {} inbox {} blocks held {} ledger {} in the hub {}",
                       load.running, load.waiting, inbox_.size(), blocks.num_held(),
                       blocks.LedgerDifference(), hub_.num_sequences());
  }

 private:
  static WorkerServerOptions ServerOptions(const SimRank& rank, uint64_t incarnation) {
    WorkerServerOptions options;
    options.identity = {.group = rank.options_.group,
                        .rank = rank.options_.rank,
                        .group_size = rank.options_.group_size,
                        .incarnation = incarnation};
    return options;
  }

  void Wake() {
    if (std::exchange(awake_, true)) return;
    rank_->time_->After(rank_->random_->Micros(100, rank_->options_.step_us_max),
                        [weak = weak_from_this()] {
                          if (const auto self = weak.lock()) self->Step();
                        });
  }
  void Step() {
    if (rank_->paused()) {
      rank_->time_->At(rank_->paused_until_, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->Step();
      });
      return;
    }
    awake_ = false;
    for (SequenceRequest& request : std::exchange(inbox_, {})) {
      table_.Add(std::move(request), &updates_);
    }
    for (const SequenceId id : std::exchange(cancels_, {})) table_.Cancel(id, &updates_);
    if (epoch_ != 0) Compute();
    Emit();
    if (epoch_ != 0 && table_.load().running + table_.load().waiting > 0) Wake();
  }
  void Compute() {
    const StepPlan plan = table_.Plan();
    if (plan.empty()) return;
    ++steps_;
    table_.Begin(plan, &rows_);
    std::vector<float> logits(static_cast<size_t>(rank_->model_.vocab));
    std::vector<SampledToken> sampled;
    for (const Sequence* sequence : rows_.sampled) {
      uint64_t history = 0;
      for (const int32_t token : sequence->request.tokens) {
        history = FakeHash(history, static_cast<uint64_t>(token));
      }
      FakeLogits(history, logits);
      sampled.push_back(sampler_.Sample(logits, sequence->request.sampling, &sequence->counts,
                                        static_cast<uint64_t>(sequence->num_generated())));
    }
    table_.Commit(plan, rows_, sampled, &updates_);
  }
  void Emit() {
    StepOutput output;
    output.step = steps_;
    output.updates = std::exchange(updates_, {});
    output.load = table_.load();
    hub_.Deliver(output);
  }

  SimRank* const rank_;
  SequenceTable table_;
  Sampler sampler_;
  StepRows rows_;
  std::vector<SequenceOutput> updates_;
  std::vector<SequenceRequest> inbox_;
  std::vector<SequenceId> cancels_;
  uint64_t epoch_ = 0;
  uint64_t steps_ = 0;
  bool awake_ = false;
  RouterHub hub_;
};

SimRank::SimRank(SimTime* time, SimRandom* random, SimModel model, RankOptions options)
    : time_(time), random_(random), model_(model), options_(options) {}

SimRank::~SimRank() { Die(); }

void SimRank::Boot() {
  process_ = std::make_shared<Process>(this, ++incarnations_);
  process_->Open();
}

void SimRank::Die() {
  if (!process_) return;
  for (const auto& stream : std::exchange(streams_, {})) {
    stream->DropRankEnd();
    stream->Break("the rank is gone", random_->Millis(0, 20), Duration{});
  }
  process_.reset();
}

void SimRank::PauseUntil(MonoTime when) {
  paused_until_ = std::max(paused_until_, when);
  for (const auto& stream : streams_) stream->Block(when);
}
bool SimRank::paused() const { return time_->Now() < paused_until_; }

void SimRank::SetEpoch(uint64_t epoch, const std::string& reason) {
  if (process_) process_->SetState(epoch, reason);
}
uint64_t SimRank::epoch() const { return process_ ? process_->epoch() : 0; }
uint64_t SimRank::steps() const { return process_ ? process_->steps() : 0; }

bool SimRank::Accept(std::shared_ptr<SimStream> stream) {
  if (!process_) return false;
  if (paused()) stream->Block(paused_until_);
  std::erase_if(streams_, [](const auto& old) { return old->gone_at_rank(); });
  streams_.push_back(stream);
  process_->hub().Accept(std::move(stream));
  return true;
}

std::string SimRank::Leftovers() const { return process_ ? process_->Leftovers() : ""; }

}  // namespace choir::sim
