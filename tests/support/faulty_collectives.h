// Collectives that die on purpose: the `fail_at`-th collective call (from 0) of this rank kills the
// communicator for all ranks with `reason`, before (or, with `after`, just after) the call did its
// work.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "worker/comm/collectives.h"

namespace choir {

struct Fault {
  int64_t fail_at = 0;
  Status reason = absl::UnavailableError("injected fault");
  bool after = false;
};

class FaultyCollectives final : public Collectives {
 public:
  FaultyCollectives(std::unique_ptr<Collectives> inner, Fault fault)
      : inner_(std::move(inner)), fault_(std::move(fault)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  uint64_t generation() const override { return inner_->generation(); }
  std::string name() const override { return "faulty-" + inner_->name(); }
  Status Barrier() override {
    return Call([&] { return inner_->Barrier(); });
  }
  Status AllGather(std::span<const std::byte> in, std::span<std::byte> out) override {
    return Call([&] { return inner_->AllGather(in, out); });
  }
  Status AllToAllV(std::span<const std::byte> send, std::span<const size_t> send_bytes,
                   std::span<std::byte> recv, std::span<const size_t> recv_bytes) override {
    return Call([&] { return inner_->AllToAllV(send, send_bytes, recv, recv_bytes); });
  }
  void Announce(uint64_t step) override { inner_->Announce(step); }
  bool WaitForAnnounce(uint64_t step, Duration timeout) override {
    return inner_->WaitForAnnounce(step, timeout);
  }
  void Wake() override { inner_->Wake(); }
  void Abort(const Status& reason) override { inner_->Abort(reason); }
  Status status() const override { return inner_->status(); }
  Status LookAfterPeers() override { return inner_->LookAfterPeers(); }

  int64_t calls() const { return calls_; }

 private:
  template <typename Fn>
  Status Call(Fn fn) {
    const bool now = calls_++ == fault_.fail_at;
    if (now && !fault_.after) inner_->Abort(fault_.reason);
    const Status result = fn();
    if (now && fault_.after) inner_->Abort(fault_.reason);
    return result;
  }

  const std::unique_ptr<Collectives> inner_;
  const Fault fault_;
  int64_t calls_ = 0;
};

}  // namespace choir
