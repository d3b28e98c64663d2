#include "worker/engine/engine.h"

#include <pthread.h>
#include <sys/resource.h>

#include <memory>
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "worker/engine/engine_impl.h"

namespace choir {
namespace {

constexpr Duration kIdleCheck = std::chrono::seconds(1);  // how often an idle engine shows it lives
constexpr uint64_t kExpertCountSteps = 64;  // expert counts are collected every so many steps

double WallSeconds() { return Seconds(Clock::Real().Wall().time_since_epoch()); }

void AddTo(const ExchangeStats& from, ExchangeStats* to) {
  to->dispatch_bytes += from.dispatch_bytes;
  to->combine_bytes += from.combine_bytes;
  to->dispatch_seconds += from.dispatch_seconds;
  to->combine_seconds += from.combine_seconds;
}

std::unique_ptr<ExpertMover> MakeMover(const Model& model, const EngineParts& parts) {
  const LoadedModel& loaded = model.loaded();
  if (loaded.info().num_experts == 0) return nullptr;
  return std::make_unique<ExpertMover>(
      ExpertMoverOptions{.redundant = parts.options.redundant_experts,
                         .cover = parts.options.expert_cover,
                         .window_steps = parts.options.placement_steps},
      &loaded, parts.num_ranks);
}

}  // namespace

EngineImpl::EngineImpl(EngineParts parts)
    : options_(parts.options),
      limits_(parts.limits),
      num_ranks_(parts.num_ranks),
      info_(parts.model->loaded().info()),
      model_(std::move(parts.model)),
      mover_(MakeMover(*model_, parts)),
      device_(model_->loaded().device()),
      kv_(std::move(parts.kv)),
      exchanges_(std::move(parts.exchanges)),
      workspace_(std::move(parts.workspace)),
      team_(std::move(parts.team)),
      sampler_(std::move(parts.sampler)),
      sink_(std::move(parts.sink)),
      table_({.scheduler = {.step_tokens = limits_.step_tokens,
                            .sequences_max = limits_.logit_rows_max,
                            .block_tokens = kv_->block_tokens(),
                            .blocks_total = kv_->num_blocks()},
              .context_length = limits_.positions_max,
              .vocab = info_.vocab,
              .prefix_cache = options_.prefix_cache,
              .kv_by_role = model_->loaded().kv_layout().by_role}),
      stream_{team_.get(), {workspace_.data(), workspace_.size()}, device_.stream()},
      inbox_(static_cast<size_t>(parts.options.inbox_max)) {
  Publish();
}

EngineImpl::~EngineImpl() = default;

Status EngineImpl::Submit(SequenceRequest request) {
  if (queued_.fetch_add(1) >= options_.waiting_max) {
    queued_.fetch_sub(1);
    return ResourceExhausted("engine: {} sequences wait already", options_.waiting_max);
  }
  if (!inbox_.TryPush(std::move(request))) {
    queued_.fetch_sub(1);
    if (stop_.load()) return Unavailable("engine: it is stopped");
    return ResourceExhausted("engine: its inbox of {} is full", options_.inbox_max);
  }
  WakeOwner();
  return absl::OkStatus();
}

void EngineImpl::Cancel(SequenceId id) {
  {
    std::lock_guard lock(mu_);
    cancels_.insert(id);
  }
  WakeOwner();
}

EngineStats EngineImpl::stats() const {
  std::lock_guard lock(mu_);
  return published_;
}

void EngineImpl::OnEpochFailed(std::function<void(uint64_t, Status)> callback) {
  on_epoch_failed_ = std::move(callback);
}

void EngineImpl::OnDeviceFailed(std::function<void(Status)> callback) {
  on_device_failed_ = std::move(callback);
}

// The owner sleeps in one of two places. Both remember a wake that comes before the sleep, and
// whatever the wake is about was put down before, so nothing is slept over.
void EngineImpl::WakeOwner() {
  std::shared_ptr<Collectives> current;
  {
    std::lock_guard lock(mu_);
    current = current_;
  }
  inbox_.Wake();
  if (current != nullptr) current->Wake();
}

void EngineImpl::SetEpoch(std::shared_ptr<Collectives> collectives) {
  std::shared_ptr<Collectives> old;
  {
    std::lock_guard lock(mu_);
    if (collectives == current_ && !has_next_) return;
    old = current_;
    next_ = std::move(collectives);
    has_next_ = true;
  }
  if (old != nullptr) old->Abort(Cancelled("generation {} is over", old->generation()));
  WakeOwner();
}

void EngineImpl::Stop() {
  stop_.store(true);
  inbox_.Close();
  std::shared_ptr<Collectives> current;
  {
    std::lock_guard lock(mu_);
    current = current_;
  }
  if (current != nullptr) current->Abort(Unavailable("rank {} stops", current->rank()));
}

void EngineImpl::Run() {
  pthread_setname_np(pthread_self(), "engine");
  if (options_.nice != 0) (void)setpriority(PRIO_PROCESS, 0, options_.nice);
  (void)device_.Use();  // an error of the device shows at the first step
  while (!stop_.load()) {
    ++counts_.rounds;
    TakeEpoch();
    TakeInbox(epoch_.collectives == nullptr);
    if (epoch_.collectives == nullptr) {
      CountIdle();
    } else {
      StepOrSleep();
    }
  }
  TakeInbox(false);
  EndEpoch(Finish::kCancelled);
}

void EngineImpl::TakeEpoch() {
  std::shared_ptr<Collectives> next;
  {
    std::lock_guard lock(mu_);
    if (!has_next_) return;
    next = std::move(next_);
    next_ = nullptr;
    has_next_ = false;
  }
  if (epoch_.collectives != nullptr) EndEpoch(Finish::kLost);
  if (next == nullptr) return TellOfDevice();
  if (const Status status = BeginEpoch(next); !status.ok()) {
    CHOIR_LOG(warn, "epoch {} does not begin: {}", next->generation(), MessageOf(status));
    next->Abort(status);
    TellOfDevice();
    if (on_epoch_failed_) on_epoch_failed_(next->generation(), status);
  }
}

// A device that fails may show it in a step, as an epoch begins or as one ends.
void EngineImpl::TellOfDevice() {
  const Status device = device_.status();
  if (!device.ok() && on_device_failed_) std::exchange(on_device_failed_, nullptr)(device);
}

Status EngineImpl::BeginEpoch(std::shared_ptr<Collectives> next) {
  if (next->size() != num_ranks_) {
    return FailedPrecondition("generation {} has {} ranks, the engine was made for {}",
                              next->generation(), next->size(), num_ranks_);
  }
  if (mover_ != nullptr) CHOIR_RETURN_IF_ERROR(mover_->BeginEpoch(next->rank()));
  epoch_.collectives = next;
  epoch_.protocol = std::make_unique<StepProtocol>(next.get(), info_.num_experts > 0);
  epoch_.exchange = exchanges_.ForEpoch(next.get(), stream_);
  std::lock_guard lock(mu_);
  current_ = next;
  // Stop and SetEpoch abort what is current; those that came meanwhile have not seen this one.
  if (stop_.load() || has_next_)
    next->Abort(Cancelled("generation {} is over", next->generation()));
  return absl::OkStatus();
}

// Cancels are taken before the inbox, so a cancel never comes without its submit.
void EngineImpl::TakeInbox(bool wait) {
  std::unordered_set<SequenceId> cancels;
  {
    std::lock_guard lock(mu_);
    cancels.swap(cancels_);
  }
  std::vector<SequenceRequest> submits =
      wait && cancels.empty() ? inbox_.WaitDrain(kIdleCheck) : inbox_.DrainAll();
  if (submits.empty() && cancels.empty()) return;
  for (SequenceRequest& request : submits) table_.Add(std::move(request), &updates_);
  for (const SequenceId id : cancels) table_.Cancel(id, &updates_);
  SyncQueued(static_cast<int64_t>(submits.size()));
  EmitUpdates(false);
}

void EngineImpl::StepOrSleep() {
  const StepPlan plan = table_.Plan();
  if (plan.empty() && !epoch_.protocol->busy()) {
    CountIdle();
    if (!epoch_.protocol->WaitForPeers(kIdleCheck)) {
      const Status status = epoch_.collectives->status();
      if (!status.ok()) FailEpoch(status);
      return;
    }
  }
  const StatusOr<bool> entered = EnterStep(plan.num_tokens);
  if (!entered.ok()) return FailEpoch(entered.status());
  if (!*entered) return;
  const MonoTime start = Clock::Real().Now();
  if (const Status status = Compute(plan); !status.ok()) return FailEpoch(status);
  CountStep(plan, Seconds(Clock::Real().Now() - start));
  EmitUpdates(plan.num_tokens > 0);
}

StatusOr<bool> EngineImpl::EnterStep(int64_t own_tokens) {
  StepProtocol& protocol = *epoch_.protocol;
  const StatusOr<bool> entered = protocol.Enter(own_tokens, mover_ ? mover_->vote() : 0);
  if (!entered.ok() || !*entered || mover_ == nullptr || num_ranks_ == 1) return entered;
  CHOIR_RETURN_IF_ERROR(mover_->BeforeStep(epoch_.collectives.get(), protocol.votes(),
                                           protocol.group_tokens(), model_->expert_counts()));
  return true;
}

Status EngineImpl::Compute(const StepPlan& plan) {
  table_.Begin(plan, &rows_);
  SyncQueued(0);
  const int64_t num_logits = static_cast<int64_t>(rows_.logit_rows.size());
  ModelBatch batch;
  batch.tokens = rows_.tokens;
  batch.positions = rows_.positions;
  batch.slots = rows_.slots;
  batch.sequences = rows_.sequences;
  batch.logit_rows = rows_.logit_rows;
  batch.logits = sampler_->Logits(num_logits);
  batch.kv = kv_->views();
  batch.experts = mover_ ? mover_->placed() : nullptr;
  if (epoch_.exchange != nullptr) epoch_.exchange->BeginStep(epoch_.protocol->tokens());
  CHOIR_RETURN_IF_ERROR(model_->Forward(batch, epoch_.exchange.get(), stream_));
  CHOIR_RETURN_IF_ERROR(sampler_->Sample(rows_.sampled, stream_, &sampled_));
  table_.Commit(plan, rows_, sampled_, &updates_);
  return absl::OkStatus();
}

void EngineImpl::EndEpoch(Finish finish) {
  {
    std::lock_guard lock(mu_);
    current_ = nullptr;
  }
  if (epoch_.exchange != nullptr) AddTo(epoch_.exchange->stats(), &ended_exchanges_);
  epoch_.exchange.reset();  // before the collectives that it uses
  epoch_ = Epoch{};
  table_.EndAll(finish, &updates_);
  SyncQueued(0);
  Publish();
  EmitUpdates(false);
}

void EngineImpl::FailEpoch(const Status& status) {
  const std::shared_ptr<Collectives> failed = epoch_.collectives;
  failed->Abort(status);
  bool superseded = false;
  {
    std::lock_guard lock(mu_);
    superseded = has_next_;
  }
  const bool stopping = stop_.load();
  const bool tell = !superseded && !stopping && on_epoch_failed_;
  // Before it ends: that may take the process along, where the device does not let go.
  if (tell) CHOIR_LOG(warn, "epoch {} failed: {}", failed->generation(), MessageOf(status));
  EndEpoch(stopping ? Finish::kCancelled : Finish::kLost);
  TellOfDevice();
  if (tell) on_epoch_failed_(failed->generation(), status);
}

void EngineImpl::CountStep(const StepPlan& plan, double seconds) {
  if (++counts_.steps % kExpertCountSteps == 0) CountExperts();
  counts_.step_tokens += static_cast<uint64_t>(plan.num_tokens);
  counts_.preemptions += plan.preempted.size();
  if (plan.num_tokens > 0) {
    const double decodes =
        static_cast<double>(plan.num_decodes) / static_cast<double>(plan.num_tokens);
    counts_.decode_seconds += seconds * decodes;
    counts_.prefill_seconds += seconds * (1.0 - decodes);
  }
  Publish();
}

void EngineImpl::CountIdle() {
  CountExperts();
  Publish();
}

void EngineImpl::CountExperts() {
  if (mover_ == nullptr || mover_->placed() == nullptr) return;
  counts_.experts = std::make_shared<const ExpertLoad>(
      expert_load_.Read(model_->expert_counts(), *mover_->placed()));
}

void EngineImpl::Publish() {
  counts_.load = table_.load();
  counts_.kv_blocks_free = static_cast<uint64_t>(table_.blocks().num_free());
  counts_.kv_blocks_held = static_cast<uint64_t>(table_.blocks().num_held());
  counts_.kv_blocks_cached = static_cast<uint64_t>(table_.blocks().num_cached());
  counts_.kv_blocks_total = static_cast<uint64_t>(table_.blocks().num_total());
  counts_.prefix_query_tokens = table_.prefix_stats().query_tokens;
  counts_.prefix_hit_tokens = table_.prefix_stats().hit_tokens;
  counts_.ledger_difference = table_.blocks().LedgerDifference();
  counts_.graphs = model_->graphs();
  counts_.last_step_wall = WallSeconds();
  if (mover_ != nullptr) counts_.placement = mover_->stats();
  counts_.exchange = ended_exchanges_;
  if (epoch_.exchange != nullptr) AddTo(epoch_.exchange->stats(), &counts_.exchange);
  std::lock_guard lock(mu_);
  published_ = counts_;
}

void EngineImpl::EmitUpdates(bool always) {
  if (updates_.empty() && !always) return;
  StepOutput output;
  output.step = counts_.steps;
  output.updates = std::move(updates_);
  output.load = table_.load();
  output.load.computed_tokens = counts_.step_tokens;
  updates_ = {};
  sink_(std::move(output));
}

// queued_ counts what lies in the inbox or waits: what left the inbox comes off, what waits now
// goes on.
void EngineImpl::SyncQueued(int64_t drained) {
  const int64_t waiting = table_.num_waiting();
  queued_.fetch_add(waiting - last_waiting_ - drained);
  last_waiting_ = waiting;
}

}  // namespace choir
