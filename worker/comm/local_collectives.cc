#include "worker/comm/local_collectives.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "common/base/check.h"
#include "common/base/platform.h"
#include "worker/comm/spin.h"

namespace choir {
namespace {

constexpr size_t kGatherBytesMax = 4096;
constexpr Duration kLongestWait = std::chrono::hours(24);  // keeps time arithmetic from overflowing

// What the ranks share. A call is: put down what the others may read, meet, read, and (when the
// others read the caller's own buffers) meet again before returning.
struct Group {
  Group(int num_ranks, uint64_t generation, const CollectivesOptions& options)
      : size(num_ranks),
        generation(generation),
        timeout(options.timeout),
        posted(static_cast<size_t>(num_ranks)),
        announced(static_cast<size_t>(num_ranks), 0),
        has_announced(static_cast<size_t>(num_ranks), false),
        woken(static_cast<size_t>(num_ranks), false) {
    for (auto& slots : gathered) slots.resize(static_cast<size_t>(num_ranks));
  }

  struct Posted {
    std::span<const std::byte> send;
    std::span<const size_t> send_bytes;
    uint64_t meetings = 0;  // how often this rank has come
  };

  const int size;
  const uint64_t generation;
  const Duration timeout;

  std::mutex mu;
  std::condition_variable changed;
  Status death;  // guarded by mu, as all below
  int arrived = 0;
  int readers = 0;  // ranks that read others' buffers right now
  std::vector<Posted> posted;
  std::vector<uint64_t> announced;  // by rank
  std::vector<bool> has_announced;
  std::vector<bool> woken;

  // Double-buffered: a rank writes meeting n + 2 only after all ranks came to n + 1, so have read
  // n.
  std::vector<std::array<std::byte, kGatherBytesMax>> gathered[2];

  std::atomic<uint64_t> meetings{0};  // completed ones; written under mu, spun on without it
  std::atomic<bool> dead{false};      // as `death`, for spinning
};

class LocalCollectives final : public Collectives {
 public:
  LocalCollectives(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~LocalCollectives() override { Abort(Unavailable("rank {} left its group", rank_)); }

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }
  uint64_t generation() const override { return group_->generation; }
  std::string name() const override { return "local"; }

  Status Barrier() override { return Meet("barrier"); }

  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    CHOIR_CHECK(in.size() <= kGatherBytesMax);
    CHOIR_CHECK(out.size() == in.size() * static_cast<size_t>(group_->size));
    auto& slots = group_->gathered[meetings_ % 2];
    if (!in.empty()) std::memcpy(slots[static_cast<size_t>(rank_)].data(), in.data(), in.size());
    CHOIR_RETURN_IF_ERROR(Meet("all-gather"));
    if (in.empty()) return absl::OkStatus();
    for (size_t r = 0; r < slots.size(); ++r) {
      std::memcpy(out.data() + r * in.size(), slots[r].data(), in.size());
    }
    return absl::OkStatus();
  }

  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    CHOIR_CHECK(send_bytes.size() == static_cast<size_t>(group_->size));
    CHOIR_CHECK(recv_bytes.size() == static_cast<size_t>(group_->size));
    {
      std::lock_guard lock(group_->mu);
      auto& mine = group_->posted[static_cast<size_t>(rank_)];
      mine.send = send;
      mine.send_bytes = send_bytes;
    }
    Status met = Meet("all-to-all");
    if (met.ok()) met = ReadFromPeers(recv, recv_bytes);
    if (met.ok()) met = Meet("end of all-to-all");
    if (!met.ok()) WaitUntilNobodyReads();
    return met;
  }

  void Announce(uint64_t step) override {
    {
      std::lock_guard lock(group_->mu);
      const auto r = static_cast<size_t>(rank_);
      group_->announced[r] = std::max(group_->announced[r], step);
      group_->has_announced[r] = true;
    }
    group_->changed.notify_all();
  }

  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    std::unique_lock lock(group_->mu);
    const auto announced = [&] {
      for (size_t r = 0; r < group_->announced.size(); ++r) {
        if (static_cast<int>(r) != rank_ && group_->has_announced[r] &&
            group_->announced[r] >= step) {
          return true;
        }
      }
      return false;
    };
    const auto mine = static_cast<size_t>(rank_);
    group_->changed.wait_for(lock, std::clamp(timeout, Duration::zero(), kLongestWait), [&] {
      return group_->woken[mine] || !group_->death.ok() || announced();
    });
    group_->woken[mine] = false;
    return group_->death.ok() && announced();
  }

  void Wake() override {
    {
      std::lock_guard lock(group_->mu);
      group_->woken[static_cast<size_t>(rank_)] = true;
    }
    group_->changed.notify_all();
  }

  void Abort(const Status& reason) override {
    {
      std::lock_guard lock(group_->mu);
      KillLocked(reason);
    }
    group_->changed.notify_all();
  }

  Status status() const override {
    std::lock_guard lock(group_->mu);
    return group_->death;
  }

 private:
  void KillLocked(const Status& reason) {
    if (!group_->death.ok()) return;
    group_->death =
        reason.ok() ? Cancelled("generation {} was aborted", group_->generation) : reason;
    group_->dead.store(true, std::memory_order_release);
  }

  // Returns when every rank has come, or with the reason of the communicator's death.
  Status Meet(const char* what) {
    Group& g = *group_;
    const uint64_t mine = meetings_++;
    {
      std::lock_guard lock(g.mu);
      if (!g.death.ok()) return g.death;
      g.posted[static_cast<size_t>(rank_)].meetings = mine + 1;
      if (++g.arrived == g.size) {
        g.arrived = 0;
        g.meetings.store(mine + 1, std::memory_order_release);
        g.changed.notify_all();
        return absl::OkStatus();
      }
    }
    for (int i = 0; i < kSpinsBeforeSleep; ++i) {
      if (g.meetings.load(std::memory_order_acquire) > mine) return absl::OkStatus();
      if (g.dead.load(std::memory_order_acquire)) break;
      CpuRelax();
    }
    std::unique_lock lock(g.mu);
    const auto over = [&] { return g.meetings.load(std::memory_order_acquire) > mine; };
    g.changed.wait_for(lock, std::clamp(g.timeout, Duration::zero(), kLongestWait),
                       [&] { return over() || !g.death.ok(); });
    if (over()) return absl::OkStatus();
    if (g.death.ok()) {
      KillLocked(DeadlineExceeded("{} of generation {}: rank {} waited {:.1f} s for rank {}", what,
                                  g.generation, rank_, Seconds(g.timeout), MissingLocked(mine)));
      g.changed.notify_all();
    }
    return g.death;
  }

  std::string MissingLocked(uint64_t meeting) const {
    std::string missing;
    for (size_t r = 0; r < group_->posted.size(); ++r) {
      if (group_->posted[r].meetings > meeting) continue;
      missing += missing.empty() ? fmt::format("{}", r) : fmt::format(", {}", r);
    }
    return missing;
  }

  Status ReadFromPeers(std::span<std::byte> recv, std::span<const size_t> recv_bytes) {
    Group& g = *group_;
    {
      std::lock_guard lock(g.mu);
      if (!g.death.ok()) return g.death;
      ++g.readers;
    }
    const Status copied = CopyFromPeers(recv, recv_bytes);
    {
      std::lock_guard lock(g.mu);
      --g.readers;
      if (!copied.ok()) KillLocked(copied);
    }
    if (g.dead.load(std::memory_order_acquire)) g.changed.notify_all();
    return copied;
  }

  Status CopyFromPeers(std::span<std::byte> recv, std::span<const size_t> recv_bytes) const {
    size_t to = 0;
    for (size_t r = 0; r < recv_bytes.size(); ++r) {
      const Group::Posted& from = group_->posted[r];
      size_t begin = 0;
      for (int before = 0; before < rank_; ++before)
        begin += from.send_bytes[static_cast<size_t>(before)];
      const size_t bytes = from.send_bytes[static_cast<size_t>(rank_)];
      if (bytes != recv_bytes[r] || to + bytes > recv.size()) {
        return Internal("all-to-all: rank {} expects {} bytes from rank {}, which sends {}", rank_,
                        recv_bytes[r], r, bytes);
      }
      if (bytes > 0) std::memcpy(recv.data() + to, from.send.data() + begin, bytes);
      to += bytes;
    }
    return absl::OkStatus();
  }

  // After a failure peers may still be copying out of this rank's buffers, which end with the call.
  void WaitUntilNobodyReads() {
    std::unique_lock lock(group_->mu);
    group_->changed.wait(lock, [&] { return group_->readers == 0; });
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
  uint64_t meetings_ = 0;  // that this rank came to
};

class SingleCollectives final : public Collectives {
 public:
  explicit SingleCollectives(uint64_t generation) : generation_(generation) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  uint64_t generation() const override { return generation_; }
  std::string name() const override { return "single"; }
  Status Barrier() override { return status(); }
  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    CHOIR_CHECK(out.size() == in.size());
    if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
    return status();
  }
  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    CHOIR_CHECK(send_bytes.size() == 1 && recv_bytes.size() == 1 && send_bytes[0] == recv_bytes[0]);
    CHOIR_CHECK(send.size() >= send_bytes[0] && recv.size() >= recv_bytes[0]);
    if (send_bytes[0] > 0) std::memcpy(recv.data(), send.data(), send_bytes[0]);
    return status();
  }
  void Announce(uint64_t /*step*/) override {}
  bool WaitForAnnounce(uint64_t /*step*/, Duration timeout) override {
    std::unique_lock lock(mu_);
    changed_.wait_for(lock, std::clamp(timeout, Duration::zero(), kLongestWait),
                      [&] { return woken_ || !death_.ok(); });
    woken_ = false;
    return false;
  }
  void Wake() override {
    {
      std::lock_guard lock(mu_);
      woken_ = true;
    }
    changed_.notify_all();
  }
  void Abort(const Status& reason) override {
    {
      std::lock_guard lock(mu_);
      if (death_.ok()) {
        death_ = reason.ok() ? Cancelled("generation {} was aborted", generation_) : reason;
      }
    }
    changed_.notify_all();
  }
  Status status() const override {
    std::lock_guard lock(mu_);
    return death_;
  }

 private:
  const uint64_t generation_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  Status death_;
  bool woken_ = false;
};

}  // namespace

std::vector<std::unique_ptr<Collectives>> MakeLocalCollectives(int num_ranks, uint64_t generation,
                                                               const CollectivesOptions& options) {
  CHOIR_CHECK(num_ranks >= 1 && num_ranks <= 256);
  auto group = std::make_shared<Group>(num_ranks, generation, options);
  std::vector<std::unique_ptr<Collectives>> ranks;
  for (int r = 0; r < num_ranks; ++r) ranks.push_back(std::make_unique<LocalCollectives>(group, r));
  return ranks;
}

std::unique_ptr<Collectives> MakeSingleCollectives(uint64_t generation) {
  return std::make_unique<SingleCollectives>(generation);
}

}  // namespace choir
