#include "gateway/upstream.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

namespace choir {

namespace asio = boost::asio;

void Upstream::Notify() {
  news_ = true;
  wake_.cancel();
}

void Upstream::OnAccepted(EdgeAcceptedInfo info) {
  accepted_ = std::move(info);
  Notify();
}

void Upstream::OnDelta(ApiDelta delta, size_t bytes) {
  if (client_gone_) return;
  bytes_ += bytes;
  if (bytes_ > bytes_max_) return OnClientGone();
  deltas_.push_back(std::move(delta));
  Notify();
}

void Upstream::OnDone(ApiUsage usage) {
  usage_ = usage;
  Notify();
}

void Upstream::OnError(ApiError error) {
  error_ = std::move(error);
  Notify();
}

void Upstream::OnClientGone() {
  if (std::exchange(client_gone_, true)) return;
  deltas_.clear();
  if (on_lost_) on_lost_();
  Notify();
}

std::deque<ApiDelta> Upstream::TakeDeltas() {
  bytes_ = 0;
  return std::exchange(deltas_, {});
}

asio::awaitable<bool> Upstream::Wait(Duration timeout) {
  if (!news_) {
    wake_.expires_after(std::chrono::duration_cast<asio::steady_timer::duration>(timeout));
    (void)co_await wake_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  co_return std::exchange(news_, false);
}

}  // namespace choir
