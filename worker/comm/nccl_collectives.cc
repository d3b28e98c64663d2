#include "worker/comm/nccl_collectives.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/restart.h"
#include "worker/comm/abort_limit.h"
#include "worker/comm/nccl_posts.h"
#include "worker/comm/nccl_slot_room.h"

namespace choir {
namespace {

using cuda::NcclState;

constexpr Duration kReleaseMin = std::chrono::seconds(10);
constexpr uint64_t kPendingMax = 16;  // transfers that are enqueued at once: two a layer
constexpr size_t kProbeBytes = 256;   // that each rank sends to each when it connects

// What ranks tell each other while they connect. `why` is empty when all went well.
struct Report {
  std::array<char, 256> why{};
  bool symmetric = false;
  cuda::NcclId id;  // of rank 0
};

class NcclCollectives final : public Collectives, public DeviceCollectives {
 public:
  NcclCollectives(const NcclParts& parts, std::unique_ptr<Collectives> control)
      : control_(std::move(control)),
        device_(*parts.device),
        nccl_(*parts.nccl),
        room_(parts.device, parts.nccl),
        slot_sizes_(parts.slots),
        card_(parts.card),
        timeout_(std::max(parts.timeout, Duration::zero())),
        connect_timeout_(std::max(parts.connect_timeout, Duration::zero())) {}
  ~NcclCollectives() override {
    if (control_ != nullptr) control_->Abort(Unavailable("rank {} left its group", rank()));
    Release();
  }

  // The same on all ranks, unless the collectives of the hosts died. Where windows do not work,
  // without them.
  Status Connect() {
    CHOIR_RETURN_IF_ERROR(Agree(Prepare()));
    windows_ = all_symmetric_;
    const Status connected = ConnectOnce();
    if (connected.ok() || !std::exchange(windows_, false)) return connected;
    CHOIR_RETURN_IF_ERROR(Agree(MakeId()));
    return ConnectOnce();
  }
  std::unique_ptr<Collectives> GiveBack() {
    Release();
    return std::move(control_);
  }

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  uint64_t generation() const override { return control_->generation(); }
  std::string name() const override { return "nccl+" + control_->name(); }
  Status Barrier() override { return control_->Barrier(); }
  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    return control_->AllGather(in, out);
  }
  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return control_->AllToAllV(send, send_bytes, recv, recv_bytes);
  }
  void Announce(uint64_t step) override { control_->Announce(step); }
  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    return control_->WaitForAnnounce(step, timeout);
  }
  void Wake() override { control_->Wake(); }
  // Another thread's: the owner finds it the next time it looks, and aborts NCCL then.
  void Abort(const Status& reason) override { control_->Abort(reason); }
  Status status() const override { return control_->status(); }
  Status LookAfterPeers() override { return control_->LookAfterPeers(); }
  DeviceCollectives* device() override { return this; }

  std::string device_name() const override { return "NCCL " + NcclVersion(version_); }

  Status Begin(const DeviceTransfer& transfer, void* stream) override {
    CHOIR_CHECK(static_cast<int>(transfer.send_bytes.size()) == size());
    CHOIR_CHECK(static_cast<int>(transfer.recv_bytes.size()) == size());
    if (communicator_ == nullptr || !status().ok()) return Die(status());
    return BeginWith(transfer.what, stream, [&] { return Post().Rows(transfer); });
  }

  const DeviceSlotRoom& slots() const override { return room_.room(); }
  Status BeginSlots(const char* what, std::span<const DeviceSlot> slots, void* stream) override {
    CHOIR_CHECK(slots.size() <= kDeviceSlotsMax);
    if (communicator_ == nullptr || !status().ok()) return Die(status());
    return BeginWith(what, stream, [&] { return Post().Slots(what, slots); });
  }

  Status BeginOutputs(const char* what, size_t bytes, void* stream) override {
    CHOIR_CHECK(bytes <= slots().sizes.outputs);
    if (communicator_ == nullptr || !status().ok()) return Die(status());
    return BeginWith(what, stream, [&] { return Post().Outputs(what, slots(), bytes); });
  }

  Status End(void* stream) override {
    CHOIR_CHECK(ended_ < begun_);
    const Transfer& next = transfers_[ended_++ % kPendingMax];
    const Status waits = FromDevice(device_.wait_event(stream, next.arrived), next.what);
    return waits.ok() ? waits : Die(waits);
  }

  Status Look() override {
    if (communicator_ == nullptr || !LookAfterPeers().ok()) return Die(status());
    const Status can = LookAtTransfers();
    return can.ok() ? can : Die(can);
  }

  void Leave() override {
    if (communicator_ != nullptr) {
      const Status can = LookAtTransfers();
      if (!can.ok() || pending_ > 0 || !status().ok()) {
        (void)Die(can.ok() ? Cancelled("rank {} left a transfer", rank()) : can);
      }
    }
    compute_ = nullptr;
    ended_ = begun_;
  }

 private:
  struct Transfer {
    void* arrived = nullptr;  // event
    const char* what = "";
    Duration limit{};
    MonoTime deadline{};
  };

  Status Prepare() {
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.use(card_), "use"));
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.make_stream(&stream_), "stream"));
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.make_event(&ready_), "event"));
    for (Transfer& t : transfers_) {
      CHOIR_RETURN_IF_ERROR(FromDevice(device_.make_event(&t.arrived), "event"));
    }
    const size_t probe = 2 * kProbeBytes * static_cast<size_t>(size());
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.allocate(probe, &probe_), "memory"));
    CHOIR_RETURN_IF_ERROR(FromNccl(nccl_.open(&version_), "open"));
    CHOIR_RETURN_IF_ERROR(FromDevice(room_.Allocate(slot_sizes_, size()), "memory"));
    return MakeId();
  }
  Status MakeId() {
    return rank() == 0 ? FromNccl(nccl_.make_id(&id_), "make an id") : absl::OkStatus();
  }

  // Every rank hears how all fared; the error of the lowest rank that has one is the answer.
  Status Agree(const Status& mine) {
    CHOIR_RETURN_IF_ERROR(status());
    Report report{.why = {}, .symmetric = room_.symmetric(), .id = id_};
    const std::string why = MessageOf(mine);
    std::memcpy(report.why.data(), why.data(), std::min(why.size(), report.why.size() - 1));
    std::vector<Report> all(static_cast<size_t>(size()));
    CHOIR_RETURN_IF_ERROR(control_->AllGather(std::as_bytes(std::span(&report, 1)),
                                              std::as_writable_bytes(std::span(all))));
    for (const Report& of : all) {
      if (of.why[0] != '\0') return Unavailable("{}", of.why.data());
    }
    id_ = all[0].id;
    all_symmetric_ = std::ranges::all_of(all, &Report::symmetric);
    return absl::OkStatus();
  }

  Status ConnectOnce() {
    const Status connected = ConnectAndProbe();
    if (!connected.ok()) DropCommunicator();
    return Agree(connected);
  }

  // NCCL connects pairs when they first send: that is part of it, and may be what does not work.
  Status ConnectAndProbe() {
    Transfer& probe = NextTransfer("connect", connect_timeout_);
    CHOIR_RETURN_IF_ERROR(FromNccl(nccl_.connect(id_, rank(), size(), &communicator_), "connect"));
    CHOIR_RETURN_IF_ERROR(WaitForCommunicator(probe));
    if (windows_) {
      CHOIR_RETURN_IF_ERROR(FromNccl(room_.Register(communicator_), "register"));
      CHOIR_RETURN_IF_ERROR(WaitForCommunicator(probe));
    }
    std::vector<size_t> bytes(static_cast<size_t>(size()), kProbeBytes);
    bytes[static_cast<size_t>(rank())] = 0;
    auto* const send = static_cast<std::byte*>(probe_);
    const DeviceTransfer transfer{.what = probe.what,
                                  .send = send,
                                  .send_bytes = bytes,
                                  .recv = send + kProbeBytes * static_cast<size_t>(size()),
                                  .recv_bytes = bytes};
    CHOIR_RETURN_IF_ERROR(Enqueue([&] { return Post().Rows(transfer); }, &probe));
    CHOIR_RETURN_IF_ERROR(WaitUntilPending(0));
    const DeviceSlotRoom& room = slots();
    const DeviceSlot slot{
        .own = room.own, .bytes = std::min(room.sizes.slot, kProbeBytes), .all = room.all};
    Transfer& second = NextTransfer("connect", connect_timeout_);
    const auto post = [&] {
      CHOIR_RETURN_IF_ERROR(Post().Slots(second.what, {&slot, 1}));
      return Post().Outputs(second.what, room, std::min(room.sizes.outputs, kProbeBytes));
    };
    CHOIR_RETURN_IF_ERROR(Enqueue(post, &second));
    ended_ = begun_;  // nothing else waits for these
    return WaitUntilPending(0);
  }

  template <class Post>
  Status BeginWith(const char* what, void* stream, const Post& post) {
    const Status begun = TryBegin(what, stream, post);
    return begun.ok() ? begun : Die(begun);
  }

  template <class Post>
  Status TryBegin(const char* what, void* stream, const Post& post) {
    compute_ = stream;
    CHOIR_CHECK(begun_ - ended_ < kPendingMax);
    CHOIR_RETURN_IF_ERROR(WaitUntilPending(kPendingMax - 1));
    Transfer& next = NextTransfer(what, timeout_);
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.record(ready_, stream), what));
    CHOIR_RETURN_IF_ERROR(FromDevice(device_.wait_event(stream_, ready_), what));
    return Enqueue(post, &next);
  }

  Transfer& NextTransfer(const char* what, Duration limit) {
    Transfer& next = transfers_[begun_ % kPendingMax];
    next.what = what;
    next.limit = limit;
    next.deadline = Clock::Real().Now() + limit;
    return next;
  }
  const Transfer& oldest() const { return transfers_[(begun_ - pending_) % kPendingMax]; }

  template <class Post>
  Status Enqueue(const Post& post, Transfer* next) {
    CHOIR_RETURN_IF_ERROR(FromNccl(nccl_.begin_group(), next->what));
    const Status posted = post();
    const Status ended = FromNccl(nccl_.end_group(), next->what);  // in any case: it is begun
    CHOIR_RETURN_IF_ERROR(posted);
    CHOIR_RETURN_IF_ERROR(ended);
    CHOIR_RETURN_IF_ERROR(WaitForCommunicator(*next));  // only now it is on the stream
    ++begun_;
    ++pending_;
    return FromDevice(device_.record(next->arrived, stream_), next->what);
  }

  NcclPosts Post() const { return {nccl_, communicator_, stream_, rank(), size()}; }

  // OK while there is time and all are alive.
  Status MayWait(const Transfer& t) const {
    CHOIR_RETURN_IF_ERROR(control_->LookAfterPeers());
    if (Clock::Real().Now() < t.deadline) return absl::OkStatus();
    return DeadlineExceeded(
        "NCCL {} at rank {} of {} took longer than {} ms: a rank hangs, see its log, or NCCL has "
        "no way to "
        "it: NCCL_DEBUG=INFO tells, --device-exchange host does without",
        t.what, rank(), size(),
        std::chrono::duration_cast<std::chrono::milliseconds>(t.limit).count());
  }

  Status WaitForCommunicator(const Transfer& t) const {
    const char* why = nullptr;
    NcclState state = nccl_.poll(communicator_, &why);
    while (state == NcclState::kWorking) {
      CHOIR_RETURN_IF_ERROR(MayWait(t));
      std::this_thread::yield();
      state = nccl_.poll(communicator_, &why);
    }
    return state == NcclState::kReady ? absl::OkStatus() : FromNccl(why, t.what);
  }

  Status WaitUntilPending(uint64_t count) {
    for (;;) {
      CHOIR_RETURN_IF_ERROR(LookAtTransfers());
      if (pending_ <= count) return absl::OkStatus();
      std::this_thread::yield();
    }
  }

  // They end in the order in which they were begun.
  Status LookAtTransfers() {
    for (bool done = true; done && pending_ > 0; pending_ -= done ? 1 : 0) {
      CHOIR_RETURN_IF_ERROR(FromDevice(device_.is_done(oldest().arrived, &done), oldest().what));
    }
    if (pending_ == 0) return absl::OkStatus();
    const char* why = nullptr;
    if (nccl_.poll(communicator_, &why) == NcclState::kFailed) return FromNccl(why, oldest().what);
    return MayWait(oldest());
  }

  // Ends this generation on all ranks; returns the reason that was first.
  Status Die(const Status& reason) {
    control_->Abort(reason);
    DropCommunicator();
    return status();
  }

  // After an abort NCCL's kernels end; until they and what comes after them have, buffers are not
  // free.
  void DropCommunicator() {
    if (communicator_ == nullptr) return;
    const Duration limit = std::max(timeout_, kReleaseMin);
    {
      const AbortLimit ends(limit);
      nccl_.abort(std::exchange(communicator_, nullptr));
    }
    pending_ = 0;
    WaitForStream(stream_, Clock::Real().Now() + limit);
    if (compute_ != nullptr) WaitForStream(compute_, Clock::Real().Now() + limit);
  }

  void WaitForStream(void* stream, MonoTime deadline) const {
    if (device_.record(ready_, stream) != nullptr) return;  // the device is lost: nothing runs
    for (bool done = false; !done && device_.is_done(ready_, &done) == nullptr;) {
      if (Clock::Real().Now() >= deadline) {  // a restart frees what the device holds
        EndForRestart("what NCCL or a step has begun goes on after an abort");
      }
      std::this_thread::yield();
    }
  }

  // By any thread: the last one that lets go.
  void Release() {
    (void)device_.use(card_);
    DropCommunicator();
    if (ready_ != nullptr) device_.free_event(std::exchange(ready_, nullptr));
    for (Transfer& t : transfers_) {
      if (t.arrived != nullptr) device_.free_event(std::exchange(t.arrived, nullptr));
    }
    if (stream_ != nullptr) device_.free_stream(std::exchange(stream_, nullptr));
    if (probe_ != nullptr) device_.free(std::exchange(probe_, nullptr));
    room_.Free();
  }

  Status FromNccl(const char* error, const char* what) const { return Post().Said(error, what); }
  Status FromDevice(const char* error, const char* what) const {
    if (error == nullptr) return absl::OkStatus();
    return Unavailable("GPU {} at rank {} of {}: {}", what, rank(), size(), error);
  }

  std::unique_ptr<Collectives> control_;  // null: given back
  const cuda::DeviceTable& device_;
  const cuda::NcclTable& nccl_;
  NcclSlotRoom room_;
  const DeviceSlotSizes slot_sizes_;
  bool all_symmetric_ = false;  // the room of every rank
  bool windows_ = false;        // the room is registered with the communicator
  const int32_t card_;
  const Duration timeout_, connect_timeout_;
  int32_t version_ = 0;
  cuda::NcclId id_;
  void* stream_ = nullptr;   // NCCL's
  void* compute_ = nullptr;  // the last that a transfer was enqueued for
  void* ready_ = nullptr;    // what is sent is there
  void* probe_ = nullptr;
  void* communicator_ = nullptr;  // null: not connected, or dead
  std::array<Transfer, kPendingMax> transfers_;
  uint64_t begun_ = 0, ended_ = 0;  // transfers so far, and those that End was called for
  uint64_t pending_ = 0;            // begun and not yet seen to be done
};

}  // namespace

Status ConnectNccl(const NcclParts& parts, std::unique_ptr<Collectives>* collectives) {
  CHOIR_CHECK(*collectives != nullptr && parts.device != nullptr && parts.nccl != nullptr);
  auto made = std::make_unique<NcclCollectives>(parts, std::move(*collectives));
  const Status connected = made->Connect();
  if (connected.ok()) {
    *collectives = std::move(made);
  } else {
    *collectives = made->GiveBack();
  }
  return connected;
}

std::string NcclVersion(int32_t version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace choir
