#include "worker/engine/expert_mover.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"

namespace choir {
namespace {

// Rows an expert has on average in a window; with fewer, chance alone looks like imbalance.
constexpr int64_t kWindowRows = 64;
constexpr int kNice = 19;

}  // namespace

ExpertMover::ExpertMover(const ExpertMoverOptions& options, const LoadedModel* loaded,
                         int num_ranks)
    : options_(options), loaded_(*loaded), num_ranks_(num_ranks) {
  const ModelInfo& info = loaded_.info();
  CHOIR_CHECK(info.num_experts > 0 && info.expert_layers > 0 && options.window_steps >= 1);
  loads_.assign(static_cast<size_t>(info.expert_layers) * static_cast<size_t>(info.num_experts), 0);
  if (options.redundant == 0) return;
  CHOIR_LOG(info, "{} redundant experts of each layer: up to {} MiB beyond this rank's share",
            options.redundant, (options.redundant * info.expert_bytes) >> 20);
}

ExpertMover::~ExpertMover() {
  DropJob();
  thread_.request_stop();
}

Status ExpertMover::BeginEpoch(int32_t rank) {
  DropJob();
  attempting_ = false;
  stats_.version = 0;
  stats_.rank_imbalance = 0;
  std::fill(loads_.begin(), loads_.end(), 0);
  window_.clear();
  window_steps_ = window_tokens_ = 0;
  if (!loaded_.device().ReadsHostMemory()) {
    // What is read may take the place of what moved here: nobody computes with that any more.
    CHOIR_RETURN_IF_ERROR(loaded_.device().Wait());
    placed_.reset();
  }
  CHOIR_ASSIGN_OR_RETURN(std::shared_ptr<const PlacedExperts> first,
                         loaded_.PlaceExperts(FirstPlacement(loaded_.info(), num_ranks_), rank,
                                              placed_.get(), std::stop_token()));
  Replace(std::move(first));
  return absl::OkStatus();
}

uint64_t ExpertMover::vote() {
  std::lock_guard lock(mu_);
  return vote_;
}

Status ExpertMover::BeforeStep(Collectives* collectives, std::span<const uint64_t> votes,
                               int64_t group_tokens, const ExpertCounts& counts) {
  if (num_ranks_ == 1) return absl::OkStatus();
  if (attempting_) EndAttempt(votes);
  if (window_.empty()) window_ = counts.rows;
  ++window_steps_;
  window_tokens_ += group_tokens;
  const ModelInfo& info = loaded_.info();
  const bool due = !attempting_ && window_steps_ > options_.window_steps &&
                   window_tokens_ * info.top_k >= kWindowRows * info.num_experts;
  return due ? Measure(collectives, counts) : absl::OkStatus();
}

Status ExpertMover::Measure(Collectives* collectives, const ExpertCounts& counts) {
  CHOIR_CHECK(counts.rows.size() == loads_.size() && window_.size() == loads_.size());
  const auto ranks = static_cast<size_t>(num_ranks_);
  const size_t size = loads_.size(), bytes = size * sizeof(uint32_t);
  std::vector<uint32_t> own(size), send, all(ranks * size);
  for (size_t i = 0; i < size; ++i) {
    own[i] = static_cast<uint32_t>(std::min<uint64_t>(counts.rows[i] - window_[i], UINT32_MAX));
  }
  for (size_t r = 0; r < ranks; ++r) send.insert(send.end(), own.begin(), own.end());
  const std::vector<size_t> each(ranks, bytes);
  CHOIR_RETURN_IF_ERROR(collectives->AllToAllV(std::as_bytes(std::span(send)), each,
                                               std::as_writable_bytes(std::span(all)), each));
  TakeLoads(all, num_ranks_);
  window_ = counts.rows;
  window_steps_ = window_tokens_ = 0;
  if (options_.redundant > 0) StartJob();
  return absl::OkStatus();
}

// rows: [ranks, layers, experts] of the window.
void ExpertMover::TakeLoads(std::span<const uint32_t> rows, int32_t ranks) {
  const auto experts = static_cast<size_t>(loaded_.info().num_experts);
  double ratios = 0;
  int64_t layers = 0;
  for (size_t l = 0; l * experts < loads_.size(); ++l) {
    uint64_t total = 0, most = 0;
    for (int32_t r = 0; r < ranks; ++r) {
      uint64_t here = 0;
      for (size_t e = 0; e < experts; ++e) {
        here += rows[static_cast<size_t>(r) * loads_.size() + l * experts + e];
      }
      total += here;
      most = std::max(most, here);
    }
    if (total == 0) continue;
    ratios += static_cast<double>(most) * ranks / static_cast<double>(total);
    ++layers;
  }
  if (layers > 0) stats_.rank_imbalance = ratios / static_cast<double>(layers);
  for (size_t i = 0; i < loads_.size(); ++i) {
    loads_[i] /= 2;
    for (size_t r = 0; r < static_cast<size_t>(ranks); ++r)
      loads_[i] += rows[r * loads_.size() + i];
  }
}

void ExpertMover::StartJob() {
  auto job = std::make_shared<Job>();
  job->loads = loads_;
  job->before = placed_;
  std::lock_guard lock(mu_);
  job_ = std::move(job);
  attempting_ = true;
  if (!thread_.joinable()) thread_ = std::jthread([this](const std::stop_token& s) { Loop(s); });
  changed_.notify_all();
}

// Nothing while a rank is not ready yet and none has failed.
void ExpertMover::EndAttempt(std::span<const uint64_t> votes) {
  const bool failed = std::count(votes.begin(), votes.end(), kFailed) > 0;
  if (!failed && std::count(votes.begin(), votes.end(), kPending) > 0) return;
  attempting_ = false;
  Result result = Cancelled("another rank failed");
  {
    std::lock_guard lock(mu_);
    if (result_) result = std::move(*result_);
  }
  DropJob();
  const bool agreed =
      std::count(votes.begin(), votes.end(), votes[0]) == static_cast<std::ptrdiff_t>(votes.size());
  if (failed || !agreed) {
    ++stats_.failed;
    const auto who = std::find(votes.begin(), votes.end(), kFailed) - votes.begin();
    const std::string why = failed ? fmt::format("rank {} failed", who) : "the ranks' plans differ";
    CHOIR_LOG(warn, "experts stay where they are: {}{}", why,
              result.ok() || absl::IsCancelled(result.status())
                  ? ""
                  : fmt::format(": {}", MessageOf(result.status())));
    return;
  }
  if (*result == placed_) {
    ++stats_.kept;
  } else {
    Switch(std::move(*result));
  }
}

void ExpertMover::Switch(std::shared_ptr<const PlacedExperts> next) {
  ++stats_.applied;
  ++stats_.version;
  stats_.moves += static_cast<uint64_t>(next->loaded);
  Replace(std::move(next));
  window_.clear();  // begins anew: of this placement only
  window_steps_ = window_tokens_ = 0;
  CHOIR_LOG(info,
            "placement {} of experts is in force: {} read here, {} copies, {} experts on one rank "
            "alone; the busiest rank had {:.2f} of the mean",
            stats_.version, placed_->loaded, stats_.copies, stats_.sole, stats_.rank_imbalance);
}

// Memory of gigabytes takes milliseconds to give back, which no step should wait for.
void ExpertMover::Replace(std::shared_ptr<const PlacedExperts> next) {
  // A device may still compute with it, and its memory may be written as soon as it is given back.
  // An error is told by the next step, too.
  (void)loaded_.device().Wait();
  placed_.swap(next);
  CountCopies();
  std::lock_guard lock(mu_);
  if (!thread_.joinable()) return;
  gone_.push_back(std::move(next));
  changed_.notify_all();
}

// The thread ends what it reads soon; what comes of it is of no use any more.
void ExpertMover::DropJob() {
  std::lock_guard lock(mu_);
  if (job_ != nullptr) job_->stop.request_stop();
  job_.reset();
  result_.reset();
  vote_ = kPending;
}

void ExpertMover::CountCopies() {
  stats_.copies = stats_.sole = 0;
  for (const ExpertPlacement& layer : placed_->layers) {
    stats_.copies += layer.num_copies() - layer.num_experts();
    for (int32_t e = 0; e < layer.num_experts(); ++e) stats_.sole += layer.RanksOf(e).size() == 1;
  }
}

ExpertMover::Result ExpertMover::Run(const Job& job) const {
  PlannedPlacement plan = PlanPlacement(
      {.current = job.before->layers,
       .loads = job.loads,
       .slots = ExpertSlots(loaded_.info().num_experts, num_ranks_, options_.redundant),
       .cover = options_.cover,
       .moves_max = loaded_.device().ReadsHostMemory() ? kMovesMax : kDeviceMovesMax});
  if (plan.layers == job.before->layers) return job.before;
  return loaded_.PlaceExperts(std::move(plan.layers), job.before->rank, job.before.get(),
                              job.stop.get_token());
}

void ExpertMover::Loop(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "experts");
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // of this thread: tokens go first
  std::unique_lock lock(mu_);
  const auto ready = [this] { return !gone_.empty() || (job_ != nullptr && !result_); };
  while (changed_.wait(lock, stop, ready)) {
    auto gone = std::exchange(gone_, {});
    std::shared_ptr<Job> job = result_ ? nullptr : job_;
    lock.unlock();
    gone.clear();
    std::optional<Result> result;
    if (job != nullptr) result = Run(*job);
    lock.lock();
    if (job == nullptr || job != job_) continue;
    vote_ = result->ok() ? DigestOf((**result)->layers) : kFailed;
    result_ = std::move(result);
  }
}

}  // namespace choir
