#include "worker/comm/shm_collectives.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "common/base/check.h"
#include "common/base/platform.h"
#include "worker/comm/peer_watch.h"
#include "worker/comm/shm_layout.h"
#include "worker/comm/shm_mapping.h"
#include "worker/comm/spin.h"

namespace choir {
namespace {

using shm::Header;
using shm::Mapping;
using shm::RankSlot;
using shm::Ring;

constexpr Duration kLookAfterPeers = std::chrono::milliseconds(20);
constexpr Duration kLookAfterPeersIdle = std::chrono::milliseconds(50);
constexpr Duration kLongestWait = std::chrono::hours(24);
constexpr size_t kChunk = 64 << 10;  // what is written before the reader is told

class ShmCollectives final : public Collectives {
 public:
  ShmCollectives(std::unique_ptr<Mapping> mapping, std::unique_ptr<PeerWatch> peers,
                 const ShmJoin& join)
      : mapping_(std::move(mapping)),
        peers_(std::move(peers)),
        rank_(join.rank),
        me_(static_cast<size_t>(join.rank)),
        ranks_(mapping_->header().num_ranks),
        ring_bytes_(mapping_->header().ring_bytes),
        generation_(join.generation),
        timeout_(std::clamp(join.options.timeout, Duration::zero(), kLongestWait)),
        names_(join.names),
        sends_(ranks_),
        receives_(ranks_) {}
  ~ShmCollectives() override { Abort(Unavailable("rank {} left its group", Name(me_))); }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_); }
  uint64_t generation() const override { return generation_; }
  std::string name() const override { return "shm"; }

  Status Barrier() override { return Meet("barrier"); }

  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    CHOIR_CHECK(in.size() <= shm::kGatherBytesMax && out.size() == in.size() * ranks_);
    const size_t buffer = meetings_ % 2;
    if (!in.empty()) std::memcpy(mapping_->slot(me_).gathered[buffer], in.data(), in.size());
    CHOIR_RETURN_IF_ERROR(Meet("all-gather"));
    for (size_t r = 0; r < ranks_ && !in.empty(); ++r) {
      std::memcpy(out.data() + r * in.size(), mapping_->slot(r).gathered[buffer], in.size());
    }
    return absl::OkStatus();
  }

  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    CHOIR_CHECK(send_bytes.size() == ranks_ && recv_bytes.size() == ranks_);
    CHOIR_CHECK(send_bytes[me_] == recv_bytes[me_]);
    if (IsDead()) return status();
    size_t from = 0, to = 0;
    for (size_t r = 0; r < ranks_; ++r) {
      sends_[r] = send.subspan(from, send_bytes[r]);
      receives_[r] = recv.subspan(to, recv_bytes[r]);
      from += send_bytes[r];
      to += recv_bytes[r];
    }
    if (!sends_[me_].empty())
      std::memcpy(receives_[me_].data(), sends_[me_].data(), sends_[me_].size());
    sends_[me_] = {};
    receives_[me_] = {};
    return WaitUntil("all-to-all", [this] { return MoveBytes(); });
  }

  void Announce(uint64_t step) override {
    std::atomic<uint64_t>& mine = mapping_->slot(me_).announced;
    if (step + 1 > mine.load(std::memory_order_relaxed))
      mine.store(step + 1, std::memory_order_release);
    RingPeers();
  }

  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    RankSlot& mine = mapping_->slot(me_);
    const MonoTime deadline =
        Clock::Real().Now() + std::clamp(timeout, Duration::zero(), kLongestWait);
    bool announced = false;
    while (true) {
      const uint32_t bell = mine.bell.load();
      mine.sleeping.store(1);
      announced = IsAnnounced(step);
      if (announced || IsDead() || woken_.load()) break;
      const Duration left = deadline - Clock::Real().Now();
      if (left <= Duration::zero()) break;
      if (shm::FutexWait(mine.bell, bell, std::min(left, kLookAfterPeersIdle))) {
        (void)LookAfterPeers();
      }
    }
    mine.sleeping.store(0);
    woken_.store(false);
    return announced && !IsDead();
  }

  void Wake() override {
    woken_.store(true);
    RingBell(me_);
  }

  void Abort(const Status& reason) override {
    Header& header = mapping_->header();
    uint32_t alive = shm::kAlive;
    if (header.death.compare_exchange_strong(alive, shm::kBeingWritten)) {
      const Status why = reason.ok() ? Cancelled("generation {} was aborted", generation_) : reason;
      const std::string text = MessageOf(why).substr(0, shm::kReasonBytes - 1);
      header.death_code = static_cast<int32_t>(why.code());
      std::memcpy(header.reason, text.c_str(), text.size() + 1);
      header.death.store(shm::kWritten);
    }
    for (size_t r = 0; r < ranks_; ++r) RingBell(r);
  }

  Status LookAfterPeers() override {
    if (const Status alive = peers_->Check(); !alive.ok()) Abort(alive);
    return status();
  }
  Status status() const override {
    if (!IsDead()) return absl::OkStatus();
    const Header& header = mapping_->header();
    std::lock_guard lock(mu_);
    if (!death_.ok()) return death_;
    // The writer needs nanoseconds, unless it died in between.
    for (int i = 0; i < 100000 && header.death.load() != shm::kWritten; ++i) CpuRelax();
    if (header.death.load() == shm::kWritten) {
      const std::string text(header.reason, strnlen(header.reason, shm::kReasonBytes));
      death_ = Status(static_cast<absl::StatusCode>(header.death_code), text);
    }
    if (death_.ok()) death_ = Unavailable("generation {} ended without a reason", generation_);
    return death_;
  }

 private:
  enum class Progress { kNone, kSome, kDone };

  int Name(size_t rank) const { return names_.empty() ? static_cast<int>(rank) : names_[rank]; }
  bool IsDead() const { return mapping_->header().death.load() != shm::kAlive; }

  bool IsAnnounced(uint64_t step) const {
    for (size_t r = 0; r < ranks_; ++r) {
      if (r != me_ && mapping_->slot(r).announced.load(std::memory_order_acquire) > step)
        return true;
    }
    return false;
  }

  // The order of the sleeper (read the bell, say "sleeping", look again, sleep on what was read)
  // and of the ringer (change, bump the bell, look for a sleeper) lets no change go unseen.
  void RingBell(size_t rank) {
    RankSlot& slot = mapping_->slot(rank);
    slot.bell.fetch_add(1);
    if (slot.sleeping.load() != 0) shm::FutexWakeAll(slot.bell);
  }
  void RingPeers() {
    for (size_t r = 0; r < ranks_; ++r) {
      if (r != me_) RingBell(r);
    }
  }

  Status Meet(const char* what) {
    if (IsDead()) return status();
    const uint64_t target = ++meetings_;
    mapping_->slot(me_).meetings.store(target, std::memory_order_release);
    RingPeers();
    return WaitUntil(what, [this, target] {
      for (size_t r = 0; r < ranks_; ++r) {
        if (mapping_->slot(r).meetings.load(std::memory_order_acquire) < target)
          return Progress::kNone;
      }
      return Progress::kDone;
    });
  }

  // Calls `advance` until it is done, the communicator is dead or the time is over.
  template <typename Advance>
  Status WaitUntil(const char* what, Advance advance) {
    RankSlot& mine = mapping_->slot(me_);
    MonoTime deadline{};
    for (int spins = 0; true; ++spins) {
      Progress progress = advance();
      if (progress == Progress::kNone && spins < kSpinsBeforeSleep) {
        CpuRelax();
        continue;
      }
      if (progress == Progress::kNone) {
        const uint32_t bell = mine.bell.load();
        mine.sleeping.store(1);
        progress = advance();
        if (progress == Progress::kNone && !IsDead()) {
          const MonoTime now = Clock::Real().Now();
          if (deadline == MonoTime{}) deadline = now + timeout_;
          if (now >= deadline) Abort(Late(what));
          if (shm::FutexWait(mine.bell, bell, std::min(deadline - now, kLookAfterPeers)))
            (void)LookAfterPeers();
        }
        mine.sleeping.store(0);
        if (progress == Progress::kNone && IsDead()) {
          // A peer that had its part may have left since: what it left behind still counts.
          progress = advance();
          if (progress == Progress::kNone) return status();
        }
      }
      if (progress == Progress::kDone) return absl::OkStatus();
      spins = 0;
    }
  }

  Status Late(const char* what) const {
    std::string missing;
    for (size_t r = 0; r < ranks_; ++r) {
      const bool late = mapping_->slot(r).meetings.load() < meetings_ || !sends_[r].empty() ||
                        !receives_[r].empty();
      if (late) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", Name(r));
    }
    return DeadlineExceeded("{} of generation {}: rank {} waited {:.1f} s for rank {}", what,
                            generation_, Name(me_), Seconds(timeout_), missing);
  }

  // Moves what fits, to and from every peer in turn, so no order of calls can block another.
  Progress MoveBytes() {
    bool moved = false, left = false;
    for (size_t r = 0; r < ranks_; ++r) {
      if (!sends_[r].empty() && WriteSome(r)) moved = true;
      if (!receives_[r].empty() && ReadSome(r)) moved = true;
      left = left || !sends_[r].empty() || !receives_[r].empty();
    }
    return !left ? Progress::kDone : moved ? Progress::kSome : Progress::kNone;
  }

  // How much of a ring is in use; kills the communicator when a peer wrote nonsense.
  size_t Used(uint64_t written, uint64_t read, size_t peer) {
    if (written - read <= ring_bytes_) return written - read;
    Abort(Internal("ring between rank {} and rank {} is corrupt", Name(me_), Name(peer)));
    return written - read;
  }

  bool WriteSome(size_t to) {
    Ring& ring = mapping_->ring(me_, to);
    const uint64_t written = ring.written.load(std::memory_order_relaxed);
    const size_t used = Used(written, ring.read.load(), to);
    if (used >= ring_bytes_) return false;
    const size_t at = written % ring_bytes_;
    const size_t bytes =
        std::min({sends_[to].size(), ring_bytes_ - used, ring_bytes_ - at, kChunk});
    std::memcpy(mapping_->data(me_, to) + at, sends_[to].data(), bytes);
    ring.written.store(written + bytes);
    sends_[to] = sends_[to].subspan(bytes);
    RingBell(to);
    return true;
  }

  bool ReadSome(size_t from) {
    Ring& ring = mapping_->ring(from, me_);
    const uint64_t read = ring.read.load(std::memory_order_relaxed);
    const size_t used = Used(ring.written.load(std::memory_order_acquire), read, from);
    if (used == 0 || used > ring_bytes_) return false;
    const size_t at = read % ring_bytes_;
    const size_t bytes = std::min({receives_[from].size(), used, ring_bytes_ - at, kChunk});
    std::memcpy(receives_[from].data(), mapping_->data(from, me_) + at, bytes);
    receives_[from] = receives_[from].subspan(bytes);
    ring.read.store(read + bytes);
    // Only a writer that found the ring full waits for room. Both sides store, then load,
    // sequentially consistent: either this load sees the full ring or the writer sees the room.
    if (ring.written.load() - read >= ring_bytes_) RingBell(from);
    return true;
  }

  const std::unique_ptr<Mapping> mapping_;
  const std::unique_ptr<PeerWatch> peers_;
  const int rank_;
  const size_t me_;
  const size_t ranks_;
  const size_t ring_bytes_;
  const uint64_t generation_;
  const Duration timeout_;
  const std::vector<int> names_;
  uint64_t meetings_ = 0;
  std::vector<std::span<const std::byte>>
      sends_;  // what is left of the running all-to-all, by rank
  std::vector<std::span<std::byte>> receives_;
  std::atomic<bool> woken_{false};
  mutable std::mutex mu_;  // guards death_
  mutable Status death_;
};

}  // namespace

StatusOr<std::unique_ptr<Collectives>> JoinShmCollectives(const ShmJoin& join) {
  const auto ranks = static_cast<int>(join.pids.size());
  if (join.rank < 0 || join.rank >= ranks || ranks > shm::kRanksMax) {
    return InvalidArgument("rank {} of {} cannot share memory (at most {} ranks)", join.rank, ranks,
                           shm::kRanksMax);
  }
  CHOIR_CHECK(join.names.empty() || join.names.size() == join.pids.size());
  auto mapping = shm::OpenSegment(join);
  if (!mapping.ok()) return mapping.status();
  auto peers = std::make_unique<PeerWatch>();
  CHOIR_RETURN_IF_ERROR(peers->Watch(join.pids, join.names));
  return std::make_unique<ShmCollectives>(std::move(*mapping), std::move(peers), join);
}

}  // namespace choir
