#include "tools/gpu/nccl_check.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/cuda/module_loader.h"
#include "tools/gpu/rank_processes.h"
#include "worker/comm/nccl_collectives.h"
#include "worker/comm/shm_collectives.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;
using Segments = std::vector<std::unique_ptr<ShmSegment>>;

// Generations: all ranks; all, of which the last is killed; those that are left.
constexpr uint64_t kWhole = 1, kLosing = 2, kRest = 3;
constexpr double kLostSecondsMax = 10;

class NcclRank {
 public:
  NcclRank(const NcclCheckOptions& options, const Segments& segments, int rank,
           const std::vector<int64_t>& pids, int out)
      : options_(options), segments_(segments), rank_(rank), pids_(pids), out_(out) {}

  int Run() {
    SetEnvironment();
    const auto module = OpenUsableCudaModule(options_.module);
    if (!module.ok()) return Tell({{"nothing", MessageOf(module.status())}}, kNothingToCheck);
    module_ = *module;
    if (const char* error = module_->device.use(0)) return Tell({{"wrong", error}}, 1);
    Json told = {{"over", "shared memory"}};
    if (HasNccl()) {
      int32_t version = 0;
      if (const char* error = module_->nccl.open(&version)) {
        return Tell({{"nothing", error}}, kNothingToCheck);
      }
      told["over"] = "NCCL " + NcclVersion(version) + " on sockets";
    }
    const Status status = Play(&told);
    if (!status.ok()) told["wrong"] = MessageOf(status);
    return Tell(told, status.ok() ? 0 : 1);
  }

 private:
  bool HasNccl() const { return module_->nccl.open != nullptr; }

  // One card twice in one communicator is refused but for ranks of different hosts.
  void SetEnvironment() const {
    setenv("NCCL_HOSTID", fmt::format("choir-gpu-check-{}", rank_).c_str(), 1);
    setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    setenv("NCCL_NET", "Socket", 1);
    setenv("NCCL_IB_DISABLE", "1", 1);
  }

  int Tell(const Json& told, int code) const {
    const std::string text = told.dump();
    const ssize_t written = write(out_, text.data(), text.size());
    return written == static_cast<ssize_t>(text.size()) ? code : 1;
  }

  StatusOr<std::unique_ptr<Collectives>> Join(uint64_t generation, int num_ranks) const {
    std::vector<int64_t> pids = pids_;
    pids.resize(static_cast<size_t>(num_ranks));
    CHOIR_ASSIGN_OR_RETURN(auto control,
                           JoinShmCollectives({.name = segments_[generation]->name(),
                                               .rank = rank_,
                                               .generation = generation,
                                               .pids = pids,
                                               .options = {.timeout = options_.timeout}}));
    if (!HasNccl()) return control;
    CHOIR_RETURN_IF_ERROR(ConnectNccl({.device = &module_->device,
                                       .nccl = &module_->nccl,
                                       .timeout = options_.timeout,
                                       .connect_timeout = options_.timeout},
                                      &control));
    return control;
  }

  StatusOr<std::unique_ptr<RowMover>> Mover(Collectives* collectives) const {
    const size_t bytes_max = options_.play.bytes_max();
    if (collectives->device() == nullptr) return HostMover(collectives, bytes_max);
    return DeviceMover(collectives, module_->device, 0, bytes_max);
  }

  Status Play(Json* told) const {
    const auto all = static_cast<int>(pids_.size());
    {
      CHOIR_ASSIGN_OR_RETURN(const auto whole, Join(kWhole, all));
      CHOIR_ASSIGN_OR_RETURN(const auto mover, Mover(whole.get()));
      PlayTimes times;
      CHOIR_RETURN_IF_ERROR(PlayExchanges(*whole, *mover, options_.play, &times));
      (*told)["large_gb_per_s"] = times.large_gb_per_s;
      (*told)["small_us"] = times.small_us;
      CHOIR_RETURN_IF_ERROR(whole->Barrier());
    }
    CHOIR_RETURN_IF_ERROR(LoseARank(all, told));
    if (all == 1) return {};
    CHOIR_ASSIGN_OR_RETURN(const auto rest, Join(kRest, all - 1));
    CHOIR_ASSIGN_OR_RETURN(const auto mover, Mover(rest.get()));
    CHOIR_RETURN_IF_ERROR(PlayEven(*rest, *mover, 7, options_.play.large_bytes));
    return rest->Barrier();
  }

  Status LoseARank(int all, Json* told) const {
    CHOIR_ASSIGN_OR_RETURN(const auto losing, Join(kLosing, all));
    CHOIR_ASSIGN_OR_RETURN(const auto mover, Mover(losing.get()));
    CHOIR_RETURN_IF_ERROR(PlayEven(*losing, *mover, 5, options_.play.ragged_bytes));
    if (rank_ == all - 1) kill(getpid(), SIGKILL);
    const MonoTime start = Clock::Real().Now();
    const Status lost = PlayEven(*losing, *mover, 6, options_.play.large_bytes);
    const double seconds = Seconds(Clock::Real().Now() - start);
    if (lost.ok()) return Internal("an exchange with a rank that was killed succeeded");
    (*told)["lost"] = MessageOf(lost);
    (*told)["lost_s"] = seconds;
    if (seconds <= kLostSecondsMax) return {};
    return Internal("a killed rank was found after {:.1f} s only: {}", seconds, MessageOf(lost));
  }

  const NcclCheckOptions& options_;
  const Segments& segments_;
  const int rank_;
  const std::vector<int64_t>& pids_;
  const int out_;
  const cuda::Module* module_ = nullptr;
};

StatusOr<Segments> MakeSegments(int num_ranks) {
  Segments segments(kRest + 1);
  for (const uint64_t generation : {kWhole, kLosing, kRest}) {
    const int ranks = generation == kRest ? std::max(num_ranks - 1, 1) : num_ranks;
    CHOIR_ASSIGN_OR_RETURN(segments[generation], ShmSegment::Create(ranks, generation, {}));
  }
  return segments;
}

// What the ranks' ends say together.
Json ResultOf(int num_ranks, const std::vector<RankEnd>& ends) {
  Json result = {{"ranks", num_ranks}, {"lines", Json::array()}, {"failures", Json::array()}};
  Json first;
  double lost_s = 0;
  for (size_t r = 0; r < ends.size(); ++r) {
    const Json told = Json::parse(ends[r].told, nullptr, false);
    const bool last = r + 1 == ends.size();
    if (ends[r].code == kNothingToCheck && !told.is_discarded()) {
      result["nothing"] = told.value("nothing", "");
      continue;
    }
    if (r == 0 && !told.is_discarded()) first = told;
    if (last && !ends[r].hung && ends[r].code == -SIGKILL) continue;  // by itself, as it should
    if (!told.is_discarded()) lost_s = std::max(lost_s, told.value("lost_s", 0.0));
    if (ends[r].code == 0) continue;
    result["failures"].push_back(fmt::format(
        "{} ranks, rank {}: {}", num_ranks, r,
        ends[r].hung          ? "hung, and was killed"
        : told.is_discarded() ? fmt::format("ended with {}", ends[r].code)
                              : told.value("wrong", fmt::format("code {}", ends[r].code))));
  }
  if (result.contains("nothing") || !result["failures"].empty() || first.is_null()) return result;
  result["over"] = first.value("over", "");
  result["large_gb_per_s"] = first.value("large_gb_per_s", 0.0);
  result["small_us"] = first.value("small_us", 0.0);
  result["lost_s"] = lost_s;
  result["lines"].push_back(fmt::format(
      "{} processes over {}: every byte of ragged and large exchanges right; {:.2f} GB/s sent by "
      "a rank, 8 KiB a peer in {:.0f} us; a killed rank found in {:.2f} s ({}), the rest went on",
      num_ranks, first.value("over", ""), first.value("large_gb_per_s", 0.0),
      first.value("small_us", 0.0), lost_s, first.value("lost", "")));
  return result;
}

}  // namespace

Json CheckNccl(int num_ranks, const NcclCheckOptions& options) {
  const StatusOr<Segments> segments = MakeSegments(num_ranks);
  if (!segments.ok()) {
    return {{"ranks", num_ranks},
            {"lines", Json::array()},
            {"failures", {MessageOf(segments.status())}}};
  }
  return ResultOf(num_ranks,
                  RunRankProcesses(num_ranks, options.limit,
                                   [&](int rank, const std::vector<int64_t>& pids, int out) {
                                     return NcclRank(options, *segments, rank, pids, out).Run();
                                   }));
}

}  // namespace choir::gpu
