#include "gateway/http/http_socket.h"

#include <fmt/format.h>
#include <openssl/err.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <string_view>
#include <utility>

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 << 10;
constexpr std::string_view kSpeakTls =
    R"({"error":{"message":"this port speaks HTTPS: use https://","type":)"
    R"("invalid_request_error","param":null,"code":"invalid_value"}})";

}  // namespace

HttpSocket::Stream::Stream(tcp::socket s, std::shared_ptr<asio::ssl::context> c)
    : socket(std::move(s)), context(std::move(c)), ahead_over(socket.get_executor()) {
  if (context) tls.emplace(socket, *context);
}

HttpSocket::HttpSocket(tcp::socket socket, std::shared_ptr<asio::ssl::context> context)
    : stream_(std::make_unique<Stream>(std::move(socket), std::move(context))) {
  boost::system::error_code error;
  raw().set_option(tcp::no_delay(true), error);
}

std::string HttpSocket::peer_address() const {
  boost::system::error_code error;
  const auto peer = stream_->socket.remote_endpoint(error);
  return error ? "" : peer.address().to_string();
}

awaitable<bool> HttpSocket::Handshake() {
  if (!is_tls()) co_return true;
  auto [error] = co_await stream_->tls->async_handshake(asio::ssl::stream_base::server, kToken);
  if (!error) co_return true;
  if (error.category() == asio::error::get_ssl_category() &&
      ERR_GET_REASON(static_cast<unsigned long>(error.value())) == SSL_R_HTTP_REQUEST) {
    const std::string answer = fmt::format(
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"
        "content-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        kSpeakTls.size(), kSpeakTls);
    (void)co_await asio::async_write(raw(), asio::buffer(answer), kToken);
    stream_->tls.reset();  // the rest is plain
    co_await Linger(kReadBytes);
  }
  co_return false;
}

awaitable<bool> HttpSocket::ReadSome(std::string* buffer) {
  if (stream_->reading_ahead) (void)co_await stream_->ahead_over.async_wait(kToken);
  if (!stream_->ahead.empty()) {
    TakeAhead(buffer);
    co_return true;
  }
  const size_t old = buffer->size();
  buffer->resize(old + kReadBytes);
  const auto space = asio::buffer(buffer->data() + old, kReadBytes);
  auto [error, n] = is_tls() ? co_await stream_->tls->async_read_some(space, kToken)
                             : co_await raw().async_read_some(space, kToken);
  buffer->resize(old + n);
  co_return !error && n > 0;
}

awaitable<size_t> HttpSocket::WriteSome(std::string_view bytes) {
  const auto rest = asio::buffer(bytes);
  auto [error, n] = is_tls() ? co_await stream_->tls->async_write_some(rest, kToken)
                             : co_await raw().async_write_some(rest, kToken);
  co_return error ? 0 : n;
}

void HttpSocket::ReadAhead(std::function<void(bool open)> done) {
  Stream* const s = stream_.get();
  s->reading_ahead = true;
  s->ahead_over.expires_at(asio::steady_timer::time_point::max());
  s->tls->async_read_some(asio::buffer(s->space),
                          [s, done = std::move(done)](boost::system::error_code error, size_t n) {
                            s->ahead.append(s->space.data(), n);
                            s->reading_ahead = false;
                            s->ahead_over.cancel();
                            done(!error);
                          });
}

void HttpSocket::TakeAhead(std::string* buffer) {
  buffer->append(std::exchange(stream_->ahead, {}));
}

awaitable<void> HttpSocket::Linger(size_t bytes_max) {
  if (stream_->reading_ahead) (void)co_await stream_->ahead_over.async_wait(kToken);
  // Ends early when the client still sends: what counts is that our end is said.
  if (is_tls()) (void)co_await stream_->tls->async_shutdown(kToken);
  boost::system::error_code ignored;
  raw().shutdown(tcp::socket::shutdown_send, ignored);
  size_t discarded = 0;
  while (discarded < bytes_max) {
    auto [error, n] = co_await raw().async_read_some(asio::buffer(stream_->space), kToken);
    if (error) break;
    discarded += n;
  }
}

void HttpSocket::Close() {
  boost::system::error_code error;
  raw().close(error);
}

}  // namespace choir
