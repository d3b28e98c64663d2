// The stream between a router and a rank, as TCP gives it: what is sent arrives in order and whole
// or not at all. It may arrive late, and it may break; both ends hear of a break, at times of their
// own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "choir/v1/worker.pb.h"
#include "tests/sim/sim_random.h"
#include "tests/sim/sim_time.h"
#include "worker/rpc/server_stream.h"

namespace choir::sim {

class SimStream final : public MessageStream<v1::ToWorker, v1::FromWorker>,
                        public std::enable_shared_from_this<SimStream> {
 public:
  // The router's end.
  struct RouterEnd {
    std::function<void(v1::FromWorker)> on_message;
    std::function<void(std::string reason)> on_closed;
  };
  struct Delays {
    int64_t min_us = 20;
    int64_t max_us = 400;
  };

  SimStream(SimTime* time, SimRandom* random, Delays delays, RouterEnd router)
      : time_(time), random_(random), delays_(delays), router_(std::move(router)) {}

  // The rank's end.
  void Start(Handler handler) override { handler_ = std::move(handler); }
  bool Send(v1::FromWorker message) override {
    if (broken_ || closing_) return false;
    Deliver(&up_free_, [self = shared_from_this(), message = std::move(message)]() mutable {
      if (self->router_.on_message) self->router_.on_message(std::move(message));
    });
    return true;
  }
  void Close(const grpc::Status& status) override {
    if (broken_ || std::exchange(closing_, true)) return;
    Deliver(&up_free_, [self = shared_from_this(), reason = status.error_message()] {
      self->Break(reason, Duration{}, Duration{});
    });
  }
  std::string peer() const override { return "sim"; }

  // The router's end again.
  void SendDown(v1::ToWorker message) {
    if (broken_) return;
    Deliver(&down_free_, [self = shared_from_this(), message = std::move(message)]() mutable {
      if (self->handler_.on_message) self->handler_.on_message(message);
    });
  }

  // Nothing arrives any more; each end hears of it after its delay.
  void Break(const std::string& reason, Duration router_hears, Duration rank_hears) {
    if (std::exchange(broken_, true)) return;
    time_->After(router_hears, [self = shared_from_this(), reason] {
      if (auto closed = std::exchange(self->router_, {}).on_closed) closed(reason);
    });
    time_->After(rank_hears, [self = shared_from_this()] {
      if (auto closed = std::exchange(self->handler_, {}).on_closed) closed();
    });
  }
  // As a process that ends: this end hears nothing any more.
  void DropRankEnd() { handler_ = {}; }
  void DropRouterEnd() { router_ = {}; }

  // Until then nothing arrives; then all does, in order.
  void Block(MonoTime until) {
    up_free_ = std::max(up_free_, until);
    down_free_ = std::max(down_free_, until);
  }
  // The rank's end has heard of the break.
  bool gone_at_rank() const { return broken_ && !handler_.on_closed; }

 private:
  template <typename F>
  void Deliver(MonoTime* free, F arrive) {
    *free = std::max(*free, time_->Now() + random_->Micros(delays_.min_us, delays_.max_us));
    auto shared = std::make_shared<F>(std::move(arrive));
    time_->At(*free, [self = shared_from_this(), shared] {
      if (!self->broken_) (*shared)();
    });
  }

  SimTime* const time_;
  SimRandom* const random_;
  const Delays delays_;
  RouterEnd router_;
  Handler handler_;
  MonoTime up_free_{}, down_free_{};  // when the last message of that way arrives
  bool broken_ = false;
  bool closing_ = false;
};

}  // namespace choir::sim
