// Looks for the router that has a stream which lost its gateway: asks one after the other, and
// tells the listener only of the one that has it. From then on it passes events on. When none has
// it, that is an answer only if all were asked; else the client is told to try again. Each router
// has `ask_time`, a connection to it included. io_context's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>
#include <vector>

#include "gateway/rpc/edge_link.h"

namespace choir {

// Where the links are that a search asks. Outlives it.
class SearchLinks {
 public:
  virtual ~SearchLinks() = default;
  // A link to this router, which tries no other; it may be on its way there: OnLink follows.
  virtual EdgeLink& LinkTo(size_t router) = 0;
  // The link that gave a request this number; null: it is gone.
  virtual EdgeLink* LinkOf(uint64_t id) = 0;
};

struct SearchedStream {
  std::string request_id;
  StreamPosition position;
  EdgeOpenInfo info;
  std::shared_ptr<EdgeListener> listener;
};

class StreamSearch final : public EdgeListener, public std::enable_shared_from_this<StreamSearch> {
 public:
  // `routers` in the order in which they are asked: index and name of each.
  using Routers = std::vector<std::pair<size_t, std::string>>;
  StreamSearch(boost::asio::io_context& io, SearchLinks* links, Routers routers,
               SearchedStream stream, Duration ask_time);

  void Start() { AskNext(); }
  // A link to that router, which LinkTo gave, has got there or has failed to.
  void OnLink(size_t router, const EdgeLink& link);
  bool WaitsFor(size_t router) const;
  void Took(size_t bytes);
  void Cancel();

  // Of the router that is asked.
  void OnAccepted(EdgeAcceptedInfo info) override;
  void OnDelta(ApiDelta delta, size_t bytes) override;
  void OnDone(ApiUsage usage) override;
  void OnError(RestError error) override;

 private:
  void AskNext();
  void Ask(EdgeLink& link);
  void GoOn(const std::string& unreached = "");
  void StopAsking();

  SearchLinks* const links_;
  const Routers routers_;
  const SearchedStream stream_;
  const Duration ask_time_;
  boost::asio::steady_timer timer_;
  size_t next_ = 0;        // in routers_: is asked or waited for
  uint64_t id_ = 0;        // there; 0: it is waited for
  bool found_ = false;     // it goes on
  std::string unreached_;  // why one could not be asked
  RestError not_found_;    // in a router's words
};

}  // namespace choir
