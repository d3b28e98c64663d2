// The stream of one connection to a router: messages in by a function, messages out one at a time,
// those that come during a write merged into the next. Send and Cancel from any thread; the
// functions are called from gRPC's. Private to edge_client.cc.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "choir/v1/edge.grpc.pb.h"
#include "common/base/clock.h"

namespace choir {

// One connection's stream. Owned by a shared_ptr that the reactor gives up in OnDone.
class EdgeStream final : public grpc::ClientBidiReactor<v1::EdgeUp, v1::EdgeDown> {
 public:
  using Down = std::function<void(std::shared_ptr<v1::EdgeDown>)>;
  using Ended = std::function<void(std::string, std::shared_ptr<EdgeStream>)>;

  struct Times {
    Duration timeout;  // of connecting, and for the answer to a ping
    Duration ping_interval;
  };

  EdgeStream(const std::string& address,
             const std::shared_ptr<grpc::ChannelCredentials>& credentials, Times times, Down down,
             Ended ended)
      : down_(std::move(down)), ended_(std::move(ended)) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh connection each time
    const auto timeout_ms = static_cast<int>(times.timeout / std::chrono::milliseconds(1));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                     static_cast<int>(times.ping_interval / std::chrono::milliseconds(1)));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, timeout_ms);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, timeout_ms);  // an attempt takes no longer
    stub_ = v1::Edge::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
  }

  void Start(std::shared_ptr<EdgeStream> self, v1::EdgeUp hello) {
    self_ = std::move(self);
    stub_->async()->Connect(&context_, this);
    AddHold();  // Send() writes from outside a reaction: the call may not end under it
    Send(std::move(hello));
    StartRead(&read_);
    StartCall();
  }

  void Send(v1::EdgeUp message) {
    std::lock_guard lock(mu_);
    if (stopped_) return;
    if (std::exchange(has_pending_, true)) {
      pending_.MergeFrom(message);
    } else {
      pending_.Swap(&message);
    }
    WriteLocked();
  }
  size_t pending_bytes() {
    std::lock_guard lock(mu_);
    return pending_.ByteSizeLong();
  }
  void Cancel() { context_.TryCancel(); }
  std::future<void> done() { return done_->get_future(); }  // once; after it no callback comes

  void OnReadDone(bool ok) override {
    if (!ok) return StopWriting();
    down_(std::make_shared<v1::EdgeDown>(std::move(read_)));
    read_.Clear();
    StartRead(&read_);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mu_);
    writing_ = false;
    if (ok) WriteLocked();
  }
  void OnDone(const grpc::Status& status) override {
    const std::string why = status.ok() ? "the router ended the stream" : status.error_message();
    const std::shared_ptr<std::promise<void>> done = done_;
    const Ended ended = ended_;
    // The stream, and the channel with it, goes on the io thread: not under gRPC's own feet.
    ended(why, std::move(self_));
    done->set_value();
  }

 private:
  // Nothing comes any more: nothing is written any more, and the call may end.
  void StopWriting() {
    {
      std::lock_guard lock(mu_);
      stopped_ = true;
    }
    RemoveHold();
  }
  void WriteLocked() {
    if (stopped_ || writing_ || !std::exchange(has_pending_, false)) return;
    writing_ = true;
    write_.Clear();
    write_.Swap(&pending_);
    StartWrite(&write_);
  }

  std::unique_ptr<v1::Edge::Stub> stub_;
  grpc::ClientContext context_;
  v1::EdgeDown read_;
  const Down down_;
  const Ended ended_;
  std::shared_ptr<EdgeStream> self_;
  const std::shared_ptr<std::promise<void>> done_ = std::make_shared<std::promise<void>>();
  std::mutex mu_;  // guards what follows
  v1::EdgeUp pending_, write_;
  bool has_pending_ = false, writing_ = false, stopped_ = false;
};

}  // namespace choir
