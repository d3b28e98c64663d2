#include "worker/comm/nccl_collectives.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"

namespace choir {
namespace {

using cuda::NcclState;

// What each rank tells the others before they connect.
struct Greeting {
  int32_t version = 0;
  cuda::NcclId id;  // of rank 0
};

class NcclCollectives final : public Collectives {
 public:
  explicit NcclCollectives(NcclParts parts)
      : control_(std::move(parts.control)),
        device_(*parts.device),
        nccl_(*parts.nccl),
        timeout_(std::max(parts.timeout, Duration::zero())) {}
  ~NcclCollectives() override {
    control_->Abort(Unavailable("rank {} left its group", rank()));
    DropCommunicator();
    if (event_ != nullptr) device_.free_event(event_);
    if (stream_ != nullptr) device_.free_stream(stream_);
  }

  Status Connect() {
    const Status connected = TryConnect();
    return connected.ok() ? connected : Die(connected);
  }

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  uint64_t generation() const override { return control_->generation(); }
  std::string name() const override { return "nccl+" + control_->name(); }
  Status Barrier() override { return control_->Barrier(); }
  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    return control_->AllGather(in, out);
  }
  void Announce(uint64_t step) override { control_->Announce(step); }
  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    return control_->WaitForAnnounce(step, timeout);
  }
  void Wake() override { control_->Wake(); }
  // Another thread's: the owner finds it the next time it looks, and aborts NCCL then.
  void Abort(const Status& reason) override { control_->Abort(reason); }
  Status status() const override { return control_->status(); }

  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    CHOIR_CHECK(static_cast<int>(send_bytes.size()) == size());
    CHOIR_CHECK(static_cast<int>(recv_bytes.size()) == size());
    CHOIR_RETURN_IF_ERROR(status());
    const MonoTime deadline = Clock::Real().Now() + timeout_;
    Status done = Enqueue(send, send_bytes, recv, recv_bytes);
    if (done.ok()) done = WaitForCommunicator(deadline, "all-to-all");
    if (done.ok()) done = FromDevice(device_.record(event_, stream_), "all-to-all");
    if (done.ok()) done = WaitForEvent(deadline);
    return done.ok() ? done : Die(done);
  }

 private:
  Status TryConnect() {
    Greeting mine;
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.make_stream(&stream_), "stream"));
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.make_event(&event_), "event"));
    CHOIR_RETURN_IF_ERROR(FromNccl(nccl_.open(&mine.version), "open"));
    if (rank() == 0) CHOIR_RETURN_IF_ERROR(FromNccl(nccl_.make_id(&mine.id), "make an id"));
    std::vector<Greeting> all(static_cast<size_t>(size()));
    CHOIR_RETURN_IF_ERROR(control_->AllGather(std::as_bytes(std::span(&mine, 1)),
                                              std::as_writable_bytes(std::span(all))));
    for (size_t r = 0; r < all.size(); ++r) {
      if (all[r].version == all[0].version) continue;
      return FailedPrecondition("rank {} has NCCL {}, rank 0 has {}: install the same", r,
                                all[r].version, all[0].version);
    }
    const MonoTime deadline = Clock::Real().Now() + timeout_;
    CHOIR_RETURN_IF_ERROR(
        FromNccl(nccl_.connect(all[0].id, rank(), size(), &communicator_), "connect"));
    return WaitForCommunicator(deadline, "connect");
  }

  Status Enqueue(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                 std::span<std::byte> recv, std::span<const size_t> recv_bytes) {
    CHOIR_RETURN_IF_ERROR(FromNccl(nccl_.begin_group(), "begin"));
    Status posted;
    for (int r = 0; r < size() && posted.ok(); ++r) {
      const auto i = static_cast<size_t>(r);
      const auto from = send.first(send_bytes[i]);
      const auto to = recv.first(recv_bytes[i]);
      send = send.subspan(from.size());
      recv = recv.subspan(to.size());
      if (r == rank()) {
        CHOIR_CHECK(from.size() == to.size());
        if (!from.empty()) {
          posted = FromDevice(device_.copy(to.data(), from.data(), from.size(), stream_), "copy");
        }
        continue;
      }
      if (!from.empty())
        posted = FromNccl(nccl_.send(communicator_, from.data(), from.size(), r, stream_), "send");
      if (posted.ok() && !to.empty())
        posted = FromNccl(nccl_.recv(communicator_, to.data(), to.size(), r, stream_), "receive");
    }
    const Status ended = FromNccl(nccl_.end_group(), "all-to-all");  // in any case: it is begun
    return posted.ok() ? ended : posted;
  }

  // OK while there is time and all are alive.
  Status MayWait(MonoTime deadline, const char* what) const {
    CHOIR_RETURN_IF_ERROR(status());
    if (Clock::Real().Now() < deadline) return absl::OkStatus();
    return DeadlineExceeded(
        "NCCL {} at rank {} of {} took longer than {} ms", what, rank(), size(),
        std::chrono::duration_cast<std::chrono::milliseconds>(timeout_).count());
  }

  Status WaitForCommunicator(MonoTime deadline, const char* what) const {
    const char* why = nullptr;
    NcclState state = nccl_.poll(communicator_, &why);
    while (state == NcclState::kWorking) {
      CHOIR_RETURN_IF_ERROR(MayWait(deadline, what));
      std::this_thread::yield();
      state = nccl_.poll(communicator_, &why);
    }
    return state == NcclState::kReady ? absl::OkStatus() : FromNccl(why, what);
  }

  Status WaitForEvent(MonoTime deadline) const {
    for (bool done = false;;) {
      CHOIR_RETURN_IF_ERROR(FromDevice(device_.is_done(event_, &done), "all-to-all"));
      if (done) return absl::OkStatus();
      const char* why = nullptr;
      if (nccl_.poll(communicator_, &why) == NcclState::kFailed) return FromNccl(why, "all-to-all");
      CHOIR_RETURN_IF_ERROR(MayWait(deadline, "all-to-all"));
      std::this_thread::yield();
    }
  }

  // Ends this generation on all ranks; returns the reason that was first.
  Status Die(const Status& reason) {
    control_->Abort(reason);
    DropCommunicator();
    return status();
  }

  // After an abort NCCL's kernels end; until they have, the caller's buffers are not free.
  void DropCommunicator() {
    if (communicator_ == nullptr) return;
    nccl_.abort(std::exchange(communicator_, nullptr));
    if (device_.record(event_, stream_) != nullptr) return;  // the device is lost: nothing runs
    const MonoTime deadline = Clock::Real().Now() + std::max(timeout_, kReleaseMin);
    for (bool done = false; !done && device_.is_done(event_, &done) == nullptr;) {
      CHOIR_CHECK(Clock::Real().Now() < deadline);  // a restart frees what the device holds
      std::this_thread::yield();
    }
  }

  Status FromNccl(const char* error, const char* what) const {
    if (error == nullptr) return absl::OkStatus();
    return Unavailable("NCCL {} at rank {} of {}: {}", what, rank(), size(), error);
  }
  Status FromDevice(const char* error, const char* what) const {
    if (error == nullptr) return absl::OkStatus();
    return Unavailable("GPU {} at rank {} of {}: {}", what, rank(), size(), error);
  }

  static constexpr Duration kReleaseMin = std::chrono::seconds(10);

  const std::unique_ptr<Collectives> control_;
  const cuda::DeviceTable& device_;
  const cuda::NcclTable& nccl_;
  const Duration timeout_;
  void* stream_ = nullptr;
  void* event_ = nullptr;
  void* communicator_ = nullptr;  // null: not connected, or dead
};

}  // namespace

StatusOr<std::unique_ptr<Collectives>> MakeNcclCollectives(NcclParts parts) {
  CHOIR_CHECK(parts.control != nullptr && parts.device != nullptr && parts.nccl != nullptr);
  auto made = std::make_unique<NcclCollectives>(std::move(parts));
  CHOIR_RETURN_IF_ERROR(made->Connect());
  return made;
}

}  // namespace choir
