#include "worker/comm/gloo_mesh.h"

#include <gloo/transport/tcp/device.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/random.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "common/base/check.h"
#include "worker/comm/local_address.h"

namespace choir {
namespace {

using gloo::transport::UnboundBuffer;

constexpr uint64_t kDataSlot = 0, kNoteSlot = 1;
// Gloo must not time out by itself: it would close every pair, and peers would not hear why.
constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);
constexpr size_t kReasonBytes = 400;
constexpr size_t kSecretBytes = 16;

// What a rank tells another beside the collectives.
struct Note {
  enum Kind : uint32_t { kAnnounce = 1, kAbort = 2 };
  uint32_t kind = 0;
  int32_t code = 0;         // of an abort
  uint64_t step = 0;        // of an announcement
  uint64_t text_bytes = 0;  // of an abort
  char text[kReasonBytes] = {};
};
constexpr size_t kNoteHead = offsetof(Note, text);

// Runs `fn`, which calls Gloo; its exceptions end here.
template <typename Fn>
Status Try(const char* what, Fn fn) {
  try {
    fn();
  } catch (const std::exception& e) {
    return Unavailable("{}: {}", what, e.what());
  }
  return absl::OkStatus();
}

// Gloo's thread polls its sockets anew, without end, while another thread holds a pair's lock. If
// it pushes that thread off its core by waking up, both wait for the next tick of the scheduler: 4
// ms instead of 0.1. A batch thread does not do that.
std::shared_ptr<gloo::transport::Device> MakeDevice(const std::string& address) {
  const sched_param none{};
  const int policy = sched_getscheduler(0);
  const bool batch = policy == SCHED_OTHER && sched_setscheduler(0, SCHED_BATCH, &none) == 0;
  std::shared_ptr<gloo::transport::Device> device;
  std::exception_ptr failed;
  try {
    device = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(address.c_str()));
  } catch (...) {
    failed = std::current_exception();
  }
  if (batch) sched_setscheduler(0, policy, &none);
  if (failed) std::rethrow_exception(failed);
  return device;
}

class GlooMeshImpl final : public GlooMesh {
 public:
  explicit GlooMeshImpl(const MeshOptions& options) : options_(options) {}
  ~GlooMeshImpl() override { Stop(); }

  void Stop() override {
    closing_.store(true);
    Interrupt();
    for (Peer& peer : peers_) peer.in->abortWaitRecv();
    for (Peer& peer : peers_) peer.listener = {};  // joins
  }

  Status Open() {
    return Try("cannot open the group's sockets", [this] {
      device_ = MakeDevice(options_.address);
      context_ = device_->createContext(options_.rank, options_.size);
      context_->setTimeout(std::chrono::ceil<std::chrono::milliseconds>(options_.connect_timeout));
      // As many entries of one size as there are ranks, so that each finds its own.
      for (int r = 0; r < options_.size; ++r) {
        std::vector<char> bytes;
        if (IsPeer(r)) bytes = context_->createPair(r)->address().bytes();
        entry_bytes_ = std::max(entry_bytes_, bytes.size());
        bytes.resize(entry_bytes_);
        entries_.push_back(std::string(bytes.begin(), bytes.end()));
      }
      endpoint_.resize(kSecretBytes);
      CHOIR_CHECK(getrandom(endpoint_.data(), kSecretBytes, 0) == kSecretBytes);
      for (std::string& entry : entries_) {
        entry.resize(entry_bytes_);
        endpoint_ += entry;
      }
    });
  }

  const std::string& endpoint() const override { return endpoint_; }

  Status Connect(const std::vector<std::string>& endpoints) override {
    CHOIR_CHECK(endpoints.size() == static_cast<size_t>(options_.size));
    const size_t mine = kSecretBytes + static_cast<size_t>(options_.rank) * entry_bytes_;
    for (const int r : options_.peers) {
      const std::string& theirs = endpoints[static_cast<size_t>(r)];
      if (theirs.size() != endpoint_.size()) {
        return InvalidArgument("rank {} gave no address for traffic between hosts", r);
      }
      const std::string entry = theirs.substr(mine, entry_bytes_);
      const std::string what = fmt::format("rank {} cannot reach rank {}", options_.rank, r);
      CHOIR_RETURN_IF_ERROR(Try(what.c_str(), [&] {
        context_->getPair(r)->connect(std::vector<char>(entry.begin(), entry.end()));
      }));
      if (interrupted_.load()) return Cancelled("the set-up of the group's sockets was given up");
    }
    return CheckSecrets(endpoints);
  }

  void Start(MeshHooks hooks) override {
    hooks_ = std::move(hooks);
    std::lock_guard lock(mu_);
    peers_ = std::vector<Peer>(options_.peers.size());
    for (size_t i = 0; i < peers_.size(); ++i) {
      Peer& peer = peers_[i];
      peer.rank = options_.peers[i];
      peer.in = context_->createUnboundBuffer(&peer.received, sizeof peer.received);
      peer.abort = context_->createUnboundBuffer(&farewell_, sizeof farewell_);
      peer.listening = Try("the connection broke", [&] { peer.in->recv(peer.rank, kNoteSlot); });
    }
    for (Peer& peer : peers_) {
      peer.listener = std::jthread([this, &peer] {
        pthread_setname_np(pthread_self(), fmt::format("mesh-{}", peer.rank).c_str());
        Listen(peer);
      });
    }
  }

  Status Begin(std::span<const MeshTransfer> transfers) override {
    std::lock_guard lock(mu_);
    if (interrupted_.load()) return Interrupted();
    CHOIR_CHECK(pending_.empty());
    const Status begun = Try("traffic between hosts", [&] {
      for (const MeshTransfer& t : transfers) Receive(t);
      for (const MeshTransfer& t : transfers) Send(t);
    });
    if (!begun.ok()) pending_.clear();
    return begun;
  }

  Status Finish() override {
    Status result;
    for (Pending& op : pending_) {
      waiting_for_.store(op.peer);
      result = Wait(op);
      if (!result.ok()) break;
    }
    waiting_for_.store(-1);
    std::lock_guard lock(mu_);
    pending_.clear();  // Gloo has let go of the bytes when this returns
    return result;
  }

  Status Announce(uint64_t step) override {
    announcement_ = {.kind = Note::kAnnounce, .step = step};
    const std::span<const std::byte> head =
        std::as_bytes(std::span(&announcement_, 1)).first(kNoteHead);
    {
      std::lock_guard lock(mu_);
      if (interrupted_.load()) return Interrupted();
      CHOIR_CHECK(pending_.empty());
      const Status begun = Try("announcement to other hosts", [&] {
        for (const int r : options_.peers) Send({.peer = r, .send = head}, kNoteSlot);
      });
      if (!begun.ok()) {
        pending_.clear();
        return begun;
      }
    }
    return Finish();
  }

  int waiting_for() const override { return waiting_for_.load(); }

  void SendAbort(const Status& reason) override {
    if (said_farewell_.exchange(true)) return;
    const std::string text = MessageOf(reason).substr(0, kReasonBytes);
    farewell_.kind = Note::kAbort;
    farewell_.code = static_cast<int32_t>(reason.code());
    farewell_.text_bytes = text.size();
    std::memcpy(farewell_.text, text.data(), text.size());
    for (Peer& peer : peers_) {  // one that is gone needs no farewell
      (void)Try("abort",
                [&] { peer.abort->send(peer.rank, kNoteSlot, 0, kNoteHead + text.size()); });
    }
  }

  void Interrupt() override {
    std::lock_guard lock(mu_);
    if (interrupted_.exchange(true)) return;
    for (const Pending& op : pending_) {
      if (op.receive) {
        op.buffer->abortWaitRecv();
      } else {
        op.buffer->abortWaitSend();
      }
    }
    if (!peers_.empty() || context_ == nullptr) return;
    for (const int r : options_.peers) {  // Connect may be waiting
      if (const auto& pair = context_->getPair(r)) pair->close();
    }
  }

 private:
  struct Pending {
    int peer;
    bool receive;
    std::unique_ptr<UnboundBuffer> buffer;
  };
  struct Peer {
    int rank = 0;
    Note received;
    std::unique_ptr<UnboundBuffer> in, abort;
    Status listening;
    std::jthread listener;
  };

  // Anybody may have connected to an open port; a rank knows the secret of this one's endpoint, and
  // this one that rank's.
  Status CheckSecrets(const std::vector<std::string>& endpoints) {
    std::vector<std::string> said(endpoints.size(), std::string(kSecretBytes, 0));
    std::vector<MeshTransfer> transfers;
    for (const int r : options_.peers) {
      std::string& theirs = said[static_cast<size_t>(r)];
      transfers.push_back({.peer = r,
                           .send = std::as_bytes(std::span(endpoint_).first(kSecretBytes)),
                           .receive = std::as_writable_bytes(std::span(theirs))});
    }
    CHOIR_RETURN_IF_ERROR(Begin(transfers));
    CHOIR_RETURN_IF_ERROR(Finish());
    for (const int r : options_.peers) {
      const auto i = static_cast<size_t>(r);
      if (said[i] != endpoints[i].substr(0, kSecretBytes)) {
        return PermissionDenied("who connected to rank {} as rank {} is not that rank",
                                options_.rank, r);
      }
    }
    return absl::OkStatus();
  }

  bool IsPeer(int rank) const {
    return std::find(options_.peers.begin(), options_.peers.end(), rank) != options_.peers.end();
  }
  static Status Interrupted() { return Cancelled("the traffic between hosts was ended"); }

  void Receive(const MeshTransfer& t) {
    if (t.receive.empty()) return;
    auto buffer = context_->createUnboundBuffer(t.receive.data(), t.receive.size());
    buffer->recv(t.peer, kDataSlot);
    pending_.push_back({t.peer, true, std::move(buffer)});
  }
  void Send(const MeshTransfer& t, uint64_t slot = kDataSlot) {
    if (t.send.empty()) return;
    void* bytes = const_cast<std::byte*>(t.send.data());  // Gloo only reads what it sends
    auto buffer = context_->createUnboundBuffer(bytes, t.send.size());
    buffer->send(t.peer, slot);
    pending_.push_back({t.peer, false, std::move(buffer)});
  }

  Status Wait(Pending& op) {
    bool done = false;
    const Status waited = Try("traffic between hosts", [&] {
      done = op.receive ? op.buffer->waitRecv(nullptr, kForever)
                        : op.buffer->waitSend(nullptr, kForever);
    });
    if (!waited.ok()) return Annotate(waited, fmt::format("rank {}", op.peer));
    return done ? absl::OkStatus() : Interrupted();
  }

  // One pending receive at any time: only through it Gloo tells that a pair broke while a message
  // was under way.
  void Listen(Peer& peer) {
    while (peer.listening.ok()) {
      peer.listening = Try("the connection broke", [&] {
        if (!peer.in->waitRecv(nullptr, kForever) || closing_.load()) return;
        Take(peer.received);
        peer.in->recv(peer.rank, kNoteSlot);
      });
      if (closing_.load()) return;
    }
    hooks_.on_lost(peer.rank, MessageOf(peer.listening));
  }

  void Take(const Note& note) {
    if (note.kind == Note::kAnnounce) hooks_.on_announce(note.step);
    if (note.kind == Note::kAbort && note.code != 0 && note.text_bytes <= kReasonBytes) {
      hooks_.on_abort(Status(static_cast<absl::StatusCode>(note.code),
                             std::string(note.text, note.text_bytes)));
    }
  }

  const MeshOptions options_;
  MeshHooks hooks_;
  size_t entry_bytes_ = 0;
  std::vector<std::string> entries_;
  std::string endpoint_;
  // In this order: buffers refer to their context, the context to its device.
  std::shared_ptr<gloo::transport::Device> device_;
  std::shared_ptr<gloo::transport::Context> context_;
  std::vector<Peer> peers_;  // fixed after Start
  Note announcement_;        // the owner thread's
  Note farewell_;            // written once, before it is sent
  std::atomic<bool> said_farewell_{false}, interrupted_{false}, closing_{false};
  std::atomic<int> waiting_for_{-1};
  std::mutex mu_;  // guards pending_ against Interrupt; the owner thread alone changes it
  std::vector<Pending> pending_;
};

}  // namespace

StatusOr<std::unique_ptr<GlooMesh>> GlooMesh::Listen(const MeshOptions& options) {
  struct sigaction pipes {};
  CHOIR_CHECK(sigaction(SIGPIPE, nullptr, &pipes) == 0 && pipes.sa_handler == SIG_IGN);
  // Gloo's own check leaks what it looked up.
  CHOIR_RETURN_IF_ERROR(OwnAddress(options.address).status());
  auto mesh = std::make_unique<GlooMeshImpl>(options);
  CHOIR_RETURN_IF_ERROR(mesh->Open());
  return mesh;
}

}  // namespace choir
