#include "worker/comm/multi_host_collectives.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr Duration kLongestWait = std::chrono::hours(24);
constexpr Duration kLongestGrace = std::chrono::seconds(1);
constexpr Duration kLookMin = std::chrono::milliseconds(1);
constexpr Duration kLookMax = std::chrono::milliseconds(50);

class MultiHostCollectives final : public Collectives {
 public:
  explicit MultiHostCollectives(MultiHostParts parts)
      : rank_(parts.rank),
        ranks_(static_cast<size_t>(parts.size)),
        generation_(parts.generation),
        timeout_(std::clamp(parts.timeout, Duration::zero(), kLongestWait)),
        locals_(std::move(parts.local_ranks)),
        local_(std::move(parts.local)),
        mesh_(std::move(parts.mesh)) {
    CHOIR_CHECK(static_cast<size_t>(local_->size()) == locals_.size());
    CHOIR_CHECK(locals_[static_cast<size_t>(local_->rank())] == rank_);
    for (int r = 0; r < parts.size; ++r) {
      if (!std::binary_search(locals_.begin(), locals_.end(), r)) remotes_.push_back(r);
    }
    mesh_->Start({.on_announce = [this](uint64_t step) { OnAnnounce(step); },
                  .on_abort = [this](const Status& reason) { Abort(reason); },
                  .on_lost =
                      [this](int peer, const std::string& why) {
                        Abort(Unavailable("rank {} is lost to rank {}: {}", peer, rank_, why));
                      }});
    watch_ = std::jthread([this](const std::stop_token& stop) {
      pthread_setname_np(pthread_self(), "mesh-watch");
      Watch(stop);
    });
  }
  ~MultiHostCollectives() override {
    Abort(Unavailable("rank {} left its group", rank_));
    watch_.request_stop();
    watch_.join();
    mesh_->Stop();
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_); }
  uint64_t generation() const override { return generation_; }
  std::string name() const override {
    return local_->size() > 1 ? local_->name() + "+gloo" : "gloo";
  }

  Status Barrier() override {
    std::byte in{};
    std::vector<std::byte> out(ranks_);
    return Gather("barrier", {&in, 1}, out);
  }

  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    CHOIR_CHECK(out.size() == in.size() * ranks_);
    if (in.empty()) return Barrier();
    return Gather("all-gather", in, out);
  }

  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    CHOIR_CHECK(send_bytes.size() == ranks_ && recv_bytes.size() == ranks_);
    std::vector<std::span<const std::byte>> sends(ranks_);
    std::vector<std::span<std::byte>> receives(ranks_);
    size_t from = 0, to = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      sends[r] = send.subspan(from, send_bytes[r]);
      receives[r] = recv.subspan(to, recv_bytes[r]);
      from += send_bytes[r];
      to += recv_bytes[r];
    }
    std::vector<MeshTransfer> transfers;
    for (const int r : remotes_) {
      const auto i = static_cast<size_t>(r);
      transfers.push_back({.peer = r, .send = sends[i], .receive = receives[i]});
    }
    return Run("all-to-all", transfers, [&] { return LocalAllToAll(sends, receives); });
  }

  void Announce(uint64_t step) override {
    local_->Announce(step);
    Arm("announcement");
    const Status told = mesh_->Announce(step);
    Disarm();
    if (!told.ok()) (void)DieOfTraffic(told);
  }

  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    const MonoTime deadline =
        Clock::Real().Now() + std::clamp(timeout, Duration::zero(), kLongestWait);
    bool announced = false;
    while (status().ok()) {
      announced = announced || announced_.load() > step;
      const Duration left = deadline - Clock::Real().Now();
      if (announced || woken_.load()) break;
      announced = local_->WaitForAnnounce(step, std::max(left, Duration::zero()));
      if (!announced && left <= Duration::zero() && announced_.load() <= step) break;
    }
    woken_.store(false);
    return announced && status().ok();
  }

  void Wake() override {
    woken_.store(true);
    local_->Wake();
  }

  void Abort(const Status& reason) override {
    Status why = reason;
    {
      std::lock_guard lock(mu_);
      if (!death_.ok()) return;
      // What killed the ranks of this host came first, and they all know it already.
      if (const Status local = local_->status(); !local.ok()) why = local;
      if (why.ok()) why = Cancelled("generation {} was aborted", generation_);
      death_ = why;
    }
    died_.notify_all();
    mesh_->SendAbort(why);
    local_->Abort(why);
    mesh_->Interrupt();
    local_->Wake();
  }

  Status LookAfterPeers() override {
    if (const Status here = local_->LookAfterPeers(); !here.ok()) Abort(here);
    return status();
  }
  Status status() const override {
    std::lock_guard lock(mu_);
    return death_.ok() ? local_->status() : death_;
  }

 private:
  // Moves the bytes of other hosts while `local` moves those of this one.
  template <typename Local>
  Status Run(const char* what, std::span<const MeshTransfer> transfers, Local local) {
    if (const Status dead = status(); !dead.ok()) return Die(dead);
    Arm(what);
    Status there = mesh_->Begin(transfers);
    Status here;
    if (there.ok()) {
      here = local();
      if (!here.ok()) Abort(here);  // then Finish does not wait
      there = mesh_->Finish();
    }
    Disarm();
    if (here.ok() && there.ok()) return absl::OkStatus();
    return here.ok() ? DieOfTraffic(there) : Die(here);
  }

  Status Die(const Status& reason) {
    Abort(reason);
    return status();
  }
  // A peer that ends says why before it hangs up; the thread that hears it may be a little behind.
  Status DieOfTraffic(const Status& reason) {
    {
      std::unique_lock lock(mu_);
      died_.wait_for(lock, kLongestGrace, [this] { return !death_.ok(); });
    }
    return Die(reason);
  }

  Status Gather(const char* what, std::span<const std::byte> in, std::span<std::byte> out) {
    std::vector<MeshTransfer> transfers;
    for (const int r : remotes_) {
      transfers.push_back({.peer = r,
                           .send = in,
                           .receive = out.subspan(static_cast<size_t>(r) * in.size(), in.size())});
    }
    return Run(what, transfers, [&]() -> Status {
      std::vector<std::byte> here(in.size() * locals_.size());
      CHOIR_RETURN_IF_ERROR(local_->AllGather(in, here));
      for (size_t i = 0; i < locals_.size(); ++i) {
        std::memcpy(out.data() + static_cast<size_t>(locals_[i]) * in.size(),
                    here.data() + i * in.size(), in.size());
      }
      return absl::OkStatus();
    });
  }

  Status LocalAllToAll(std::span<const std::span<const std::byte>> sends,
                       std::span<const std::span<std::byte>> receives) {
    const auto first = static_cast<size_t>(locals_.front());
    std::vector<size_t> send_bytes, recv_bytes;
    size_t sent = 0, received = 0;
    for (const int r : locals_) {
      send_bytes.push_back(sends[static_cast<size_t>(r)].size());
      recv_bytes.push_back(receives[static_cast<size_t>(r)].size());
      sent += send_bytes.back();
      received += recv_bytes.back();
    }
    if (static_cast<size_t>(locals_.back()) == first + locals_.size() - 1) {
      return local_->AllToAllV({sends[first].data(), sent}, send_bytes,
                               {receives[first].data(), received}, recv_bytes);
    }
    // Ranks of other hosts are in between: what is this host's has to be brought together.
    local_send_.clear();
    for (const int r : locals_) {
      const auto part = sends[static_cast<size_t>(r)];
      local_send_.insert(local_send_.end(), part.begin(), part.end());
    }
    local_receive_.resize(received);
    CHOIR_RETURN_IF_ERROR(local_->AllToAllV(local_send_, send_bytes, local_receive_, recv_bytes));
    size_t at = 0;
    for (const int r : locals_) {
      const std::span<std::byte> to = receives[static_cast<size_t>(r)];
      if (!to.empty()) std::memcpy(to.data(), local_receive_.data() + at, to.size());
      at += to.size();
    }
    return absl::OkStatus();
  }

  void OnAnnounce(uint64_t step) {
    uint64_t seen = announced_.load();
    while (seen < step + 1 && !announced_.compare_exchange_weak(seen, step + 1)) {
    }
    local_->Wake();
  }

  void Arm(const char* what) {
    what_.store(what);
    deadline_.store((Clock::Real().Now() + timeout_).time_since_epoch().count());
  }
  void Disarm() { deadline_.store(0); }

  // Gloo's own time-outs close every connection before anybody could hear why.
  void Watch(const std::stop_token& stop) {
    const Duration interval = std::clamp(timeout_ / 8, kLookMin, kLookMax);
    std::unique_lock lock(watch_mu_);
    while (!watch_changed_.wait_for(lock, stop, interval, [] { return false; })) {
      if (stop.stop_requested()) return;
      const int64_t deadline = deadline_.load();
      if (deadline != 0 && Clock::Real().Now().time_since_epoch().count() >= deadline) {
        const int late = mesh_->waiting_for();
        // Who waits within this host finds out by itself, and knows for whom.
        if (late >= 0) {
          Abort(DeadlineExceeded("{} of generation {}: rank {} waited {:.1f} s for rank {}",
                                 what_.load(), generation_, rank_, Seconds(timeout_), late));
        }
      }
      if (const Status here = local_->status(); !here.ok()) Abort(here);
    }
  }

  const int rank_;
  const size_t ranks_;
  const uint64_t generation_;
  const Duration timeout_;
  const std::vector<int> locals_;
  std::vector<int> remotes_;
  const std::unique_ptr<Collectives> local_;
  const std::unique_ptr<GlooMesh> mesh_;
  std::vector<std::byte> local_send_, local_receive_;
  std::atomic<uint64_t> announced_{0};  // the latest step a rank of another host announced, + 1
  std::atomic<bool> woken_{false};
  std::atomic<const char*> what_{""};  // the running collective
  std::atomic<int64_t> deadline_{0};   // its end, or 0: none runs
  mutable std::mutex mu_;              // guards death_
  std::condition_variable died_;
  Status death_;
  std::mutex watch_mu_;
  std::condition_variable_any watch_changed_;
  std::jthread watch_;
};

}  // namespace

std::unique_ptr<Collectives> MakeMultiHostCollectives(MultiHostParts parts) {
  return std::make_unique<MultiHostCollectives>(std::move(parts));
}

}  // namespace choir
