// The router's answer to a question, for a coroutine that waits for it. Shared by both; io thread.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "gateway/api/api_error.h"

namespace choir {

template <typename T>
class RouterReply {
 public:
  explicit RouterReply(boost::asio::io_context& io) : wake_(io) {}

  // Once; before the wait or during it.
  void Set(RestError error, T value) {
    answered_ = true;
    error_ = std::move(error);
    value_ = std::move(value);
    wake_.cancel();
  }
  // False: none came within that time.
  boost::asio::awaitable<bool> Wait(boost::asio::steady_timer::duration patience) {
    if (!answered_) {
      wake_.expires_after(patience);
      (void)co_await wake_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
    }
    co_return answered_;
  }
  RestError& error() { return error_; }
  T& value() { return value_; }

 private:
  boost::asio::steady_timer wake_;
  bool answered_ = false;
  RestError error_;
  T value_{};
};

}  // namespace choir
