// One bidirectional stream of a gRPC service, server side, over the callback API: messages in by a
// function, messages out through a queue that is bounded in bytes. A peer that does not read is cut
// off when its queue is full, so it can hold up nobody else. Private to worker/rpc and its tests.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "common/base/log.h"

namespace choir {

// What the services know of a stream; tests make their own.
template <typename In, typename Out>
class MessageStream {
 public:
  // Called from gRPC's threads: on_message one at a time; on_closed once, after everything else.
  struct Handler {
    std::function<void(In&)> on_message;
    std::function<void()> on_closed;
  };

  virtual ~MessageStream() = default;
  virtual void Start(Handler handler) = 0;
  // Any thread. False: the stream is over, or was cut because the peer does not read.
  virtual bool Send(Out message) = 0;
  // Any thread. Ends the stream with `status` once what was sent before is written.
  virtual void Close(const grpc::Status& status) = 0;
  virtual std::string peer() const = 0;
};

template <typename In, typename Out>
class ServerStream final : public grpc::ServerBidiReactor<In, Out>, public MessageStream<In, Out> {
 public:
  using Handler = typename MessageStream<In, Out>::Handler;

  // Owned by gRPC until the stream is done, and by whoever holds the pointer.
  static std::shared_ptr<ServerStream> Make(grpc::CallbackServerContext* context,
                                            size_t queue_bytes_max) {
    auto stream = std::shared_ptr<ServerStream>(new ServerStream(context, queue_bytes_max));
    stream->self_ = stream;
    return stream;
  }

  void Start(Handler handler) override {
    handler_ = std::move(handler);
    this->StartRead(&in_);
  }

  bool Send(Out message) override {
    const size_t bytes = message.ByteSizeLong();
    std::lock_guard lock(mu_);
    if (closing_) return false;
    if (!queue_.empty() && queued_bytes_ + bytes > queue_bytes_max_) {
      CloseLocked(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the peer reads too slowly"));
      context_->TryCancel();  // ends the write that the peer does not take
      return false;
    }
    queue_.emplace_back(std::move(message), bytes);
    queued_bytes_ += bytes;
    WriteNextLocked();
    return true;
  }

  void Close(const grpc::Status& status) override {
    std::lock_guard lock(mu_);
    CloseLocked(status);
  }

  std::string peer() const override { return context_->peer(); }

  void OnReadDone(bool ok) override {
    if (ok) handler_.on_message(in_);
    std::lock_guard lock(mu_);
    if (!ok) {
      if (!closing_) unreadable_ = true;
      CloseLocked({grpc::StatusCode::INVALID_ARGUMENT,
                   "what came is no message of this protocol, or the stream was ended"});
    } else if (!finished_) {
      in_.Clear();
      this->StartRead(&in_);
    }
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mu_);
    writing_ = false;
    queued_bytes_ -= queue_.front().second;
    queue_.pop_front();
    if (!ok) {
      queue_.clear();
      queued_bytes_ = 0;
      CloseLocked(grpc::Status::OK);  // nobody is there to see it
    }
    WriteNextLocked();
  }

  // The peer is gone, or gave up: that is no fault of its messages.
  void OnCancel() override {
    std::lock_guard lock(mu_);
    cancelled_ = true;
  }

  void OnDone() override {
    if (unreadable_ && !cancelled_) {
      CHOIR_LOG(warn, "peer {} is cut off: what it sent is no message of this protocol", peer());
    }
    if (handler_.on_closed) handler_.on_closed();
    handler_ = {};
    const std::shared_ptr<ServerStream> last = std::move(self_);
  }

 private:
  ServerStream(grpc::CallbackServerContext* context, size_t queue_bytes_max)
      : context_(context), queue_bytes_max_(queue_bytes_max) {}

  void CloseLocked(const grpc::Status& status) {
    if (closing_) return;
    closing_ = true;
    final_status_ = status;
    WriteNextLocked();
  }

  void WriteNextLocked() {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      this->StartWrite(&queue_.front().first);  // stays where it is: a deque grows at its end
    } else if (closing_) {
      finished_ = true;
      this->Finish(final_status_);
    }
  }

  grpc::CallbackServerContext* const context_;
  const size_t queue_bytes_max_;
  Handler handler_;
  In in_;
  std::shared_ptr<ServerStream> self_;

  std::mutex mu_;  // guards all below
  std::deque<std::pair<Out, size_t>> queue_;
  size_t queued_bytes_ = 0;
  bool writing_ = false;
  bool closing_ = false;
  bool finished_ = false;
  bool unreadable_ = false;
  bool cancelled_ = false;
  grpc::Status final_status_;
};

}  // namespace choir
