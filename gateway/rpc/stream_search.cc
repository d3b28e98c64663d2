#include "gateway/rpc/stream_search.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>
#include <utility>

namespace choir {
namespace {

RestError MayBeElsewhere(const std::string& request_id, const std::string& unreached) {
  return {.http = 503,
          .type = "overloaded_error",
          .code = "not_ready",
          .message = fmt::format("stream '{}' is not at a router that answers, but may be at one "
                                 "that does not ({}): try again",
                                 request_id, unreached),
          .retry_after_seconds = 1};
}

}  // namespace

StreamSearch::StreamSearch(boost::asio::io_context& io, SearchLinks* links, Routers routers,
                           SearchedStream stream, Duration ask_time)
    : links_(links),
      routers_(std::move(routers)),
      stream_(std::move(stream)),
      ask_time_(ask_time),
      timer_(io) {}

bool StreamSearch::WaitsFor(size_t router) const {
  return !found_ && id_ == 0 && next_ < routers_.size() && routers_[next_].first == router;
}

void StreamSearch::AskNext() {
  if (next_ == routers_.size()) {
    found_ = true;
    stream_.listener->OnError(unreached_.empty() ? not_found_
                                                 : MayBeElsewhere(stream_.request_id, unreached_));
    return;
  }
  timer_.expires_after(std::chrono::duration_cast<boost::asio::steady_timer::duration>(ask_time_));
  timer_.async_wait([weak = weak_from_this(), next = next_](boost::system::error_code error) {
    const auto self = weak.lock();
    if (error || !self || self->found_ || self->next_ != next) return;
    self->GoOn("it did not answer in time");
  });
  EdgeLink& link = links_->LinkTo(routers_[next_].first);
  if (link.reached()) Ask(link);
}

void StreamSearch::Ask(EdgeLink& link) {
  id_ = link.Attach(stream_.request_id, stream_.position, stream_.info, shared_from_this());
}

void StreamSearch::OnLink(size_t router, const EdgeLink& link) {
  if (!WaitsFor(router)) return;
  if (!link.reached()) return GoOn(link.reason());
  Ask(links_->LinkTo(router));
}

void StreamSearch::GoOn(const std::string& unreached) {
  const std::string& name = routers_[next_].second;
  if (!unreached.empty()) unreached_ = name + ": " + unreached;
  StopAsking();
  ++next_;
  AskNext();
}

void StreamSearch::StopAsking() {
  EdgeLink* const link = id_ == 0 ? nullptr : links_->LinkOf(id_);
  if (link != nullptr) link->Cancel(id_);
  id_ = 0;
}

void StreamSearch::Took(size_t bytes) {
  EdgeLink* const link = id_ == 0 ? nullptr : links_->LinkOf(id_);
  if (link != nullptr) link->Took(id_, bytes);
}

void StreamSearch::Cancel() {
  found_ = true;  // nothing more is asked
  timer_.cancel();
  StopAsking();
}

void StreamSearch::OnAccepted(EdgeAcceptedInfo info) {
  found_ = true;
  timer_.cancel();
  stream_.listener->OnAccepted(std::move(info));
}

void StreamSearch::OnDelta(ApiDelta delta, size_t bytes) {
  stream_.listener->OnDelta(std::move(delta), bytes);
}

void StreamSearch::OnDone(ApiUsage usage) { stream_.listener->OnDone(usage); }

void StreamSearch::OnError(RestError error) {
  // Its router says 404 when it does not have it; its link says 503 when it cannot ask.
  if (found_ || (error.http != 404 && error.http != 503)) {
    found_ = true;
    timer_.cancel();
    return stream_.listener->OnError(std::move(error));
  }
  if (error.http == 503) return GoOn(error.message);
  not_found_ = std::move(error);
  GoOn();
}

}  // namespace choir
