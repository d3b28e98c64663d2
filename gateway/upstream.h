// One request's stream from the router, as the coroutine that answers the client sees it: an inbox
// with a wake-up. A reader that does not keep up is cut off at a bound. io thread only.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "common/base/clock.h"
#include "gateway/rpc/edge_client.h"

namespace choir {

class Upstream final : public EdgeListener {
 public:
  Upstream(boost::asio::io_context& io, size_t bytes_max) : wake_(io), bytes_max_(bytes_max) {}

  // EdgeListener
  void OnAccepted(EdgeAcceptedInfo info) override;
  void OnDelta(ApiDelta delta, size_t bytes) override;
  void OnDone(ApiUsage usage) override;
  void OnError(ApiError error) override;

  void OnClientGone();
  // Called at once, from whichever event showed it, when the client is gone or far too slow.
  void SetOnLost(std::function<void()> lost) { on_lost_ = std::move(lost); }

  // Waits for something new; false after `timeout`.
  boost::asio::awaitable<bool> Wait(Duration timeout);

  bool accepted() const { return accepted_.has_value(); }
  const EdgeAcceptedInfo& accepted_info() const { return *accepted_; }
  std::deque<ApiDelta> TakeDeltas();
  bool done() const { return usage_.has_value(); }
  const ApiUsage& usage() const { return *usage_; }
  bool failed() const { return !error_.ok(); }
  const ApiError& error() const { return error_; }
  bool client_gone() const { return client_gone_; }

 private:
  void Notify();

  boost::asio::steady_timer wake_;
  const size_t bytes_max_;
  bool news_ = false;
  std::optional<EdgeAcceptedInfo> accepted_;
  std::deque<ApiDelta> deltas_;
  size_t bytes_ = 0;
  std::optional<ApiUsage> usage_;
  ApiError error_;
  bool client_gone_ = false;
  std::function<void()> on_lost_;
};

}  // namespace choir
