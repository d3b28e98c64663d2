// A client's request on its way through the router, as the coroutine that answers the client sees
// it: an inbox with a wake-up. Each prompt of a batch is a request of its own at the router; here
// they are one again, with choices numbered through and usage summed. io thread only.
//
// Memory is bounded by the window: the router sends no more than that beyond what Took() said that
// the client has taken, and cuts a client that lets too much wait there.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "gateway/rpc/edge_client.h"

namespace choir {

class Upstream : public std::enable_shared_from_this<Upstream> {
 public:
  Upstream(boost::asio::io_context& io, EdgeClient* edge) : wake_(io), edge_(edge) {}

  // Once. `window_bytes`, for all prompts together, is 0 for an answer that is collected whole.
  // `info.client_request_id` names the request; the parts of a batch get it with their number.
  void Open(const ApiRequest& request, EdgeOpenInfo info, uint64_t window_bytes);
  // Once, instead: takes up a stream behind what its client has of it.
  void Attach(const std::string& request_id, const StreamPosition& position,
              const EdgeOpenInfo& info);
  // No more events come; of parts that have ended the client has the end.
  void Cancel();

  void OnClientGone();
  // Called at once, from whichever event showed it, when the client is gone or far too slow.
  void SetOnLost(std::function<void()> lost) { on_lost_ = std::move(lost); }

  // Whatever came since; true at once when something is there, false after `timeout`.
  boost::asio::awaitable<bool> Wait(Duration timeout);
  std::deque<ApiDelta> TakeDeltas();
  // What TakeDeltas gave was written to the client.
  void Took();

  bool accepted() const { return num_accepted_ == parts_.size(); }
  const EdgeAcceptedInfo& accepted_info() const { return accepted_; }
  bool done() const { return num_done_ == parts_.size(); }
  const ApiUsage& usage() const { return usage_; }
  bool failed() const { return !error_.ok(); }
  const RestError& error() const { return error_; }
  bool client_gone() const { return client_gone_; }

 private:
  class Part;

  void OnAccepted(EdgeAcceptedInfo info);
  void OnDelta(size_t part, ApiDelta delta, size_t bytes);
  void OnDone(const ApiUsage& usage);
  void OnError(RestError error);
  void Notify();

  boost::asio::steady_timer wake_;
  EdgeClient* const edge_;
  struct PartState {
    uint64_t id = 0;
    size_t bytes_waiting = 0;  // not yet taken by TakeDeltas
    size_t bytes_taken = 0;    // not yet acknowledged by Took
  };
  std::vector<PartState> parts_;
  uint32_t choices_each_ = 1;
  std::string batch_id_;  // empty: one prompt
  bool news_ = false;
  size_t num_accepted_ = 0, num_done_ = 0;
  EdgeAcceptedInfo accepted_;
  std::deque<ApiDelta> deltas_;
  ApiUsage usage_;
  RestError error_;
  bool client_gone_ = false;
  std::function<void()> on_lost_;
};

}  // namespace choir
