#include "gateway/http/http_server.h"

#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <set>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/http/listen.h"
#include "gateway/http/request_id.h"

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kLingerBytesMax = 1 << 20;  // of an unread body, before the connection is closed

class Server;

class Connection final : public HttpExchange, public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, Server* server);
  awaitable<void> Run();

  const HttpHead& head() const override { return head_; }
  std::string source() const override { return source_; }
  awaitable<HttpError> ReadBody(std::string* body) override;
  awaitable<bool> Respond(int status, HttpFields fields, std::string body) override;
  awaitable<bool> StartStream(int status, HttpFields fields) override;
  awaitable<bool> WriteStream(std::string bytes) override;
  awaitable<bool> EndStream() override;
  void WatchClient(std::function<void()> gone) override;
  bool answered() const override { return answered_; }
  void Abort() override { Close(); }

  void Close() {
    boost::system::error_code error;
    socket_.close(error);
  }
  bool idle() const { return idle_; }
  MonoTime deadline() const { return deadline_; }

 private:
  awaitable<bool> ReadHead(std::string* text);
  awaitable<bool> ReadSome();
  awaitable<bool> Write(std::string bytes);
  awaitable<HttpError> ReadLengthBody(std::string* body);
  awaitable<HttpError> ReadChunkedBody(std::string* body);
  awaitable<void> ServeOne(std::string text);
  awaitable<void> Linger();
  std::string HeadText(int status, const HttpFields& fields, bool with_length, size_t length);
  void SetDeadline(Duration d) { deadline_ = Clock::Real().Now() + d; }

  tcp::socket socket_;
  Server* const server_;
  std::string source_;
  std::string buffer_;  // read, not yet consumed
  HttpHead head_;
  MonoTime deadline_ = MonoTime::max();
  bool idle_ = true;
  bool answered_ = false;
  bool body_read_ = false;
  bool keep_alive_ = false;
  bool chunked_answer_ = false;
  std::function<void()> gone_;
};

class Server final : public HttpServer {
 public:
  Server(asio::io_context& io, const HttpLimits& limits, HttpHandler handler)
      : io_(io), acceptor_(io), sweep_(io), limits_(limits), handler_(std::move(handler)) {}
  ~Server() override {
    for (Connection* c : connections_) c->Close();
  }

  Status Open(const std::string& listen) {
    CHOIR_ASSIGN_OR_RETURN(address_, Listen(acceptor_, listen, "--listen"));
    asio::co_spawn(io_, Accept(), asio::detached);
    asio::co_spawn(io_, Sweep(), asio::detached);
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }
  int64_t open_connections() const override { return static_cast<int64_t>(connections_.size()); }
  int64_t running_requests() const override {
    int64_t n = 0;
    for (const Connection* c : connections_) n += c->idle() ? 0 : 1;
    return n;
  }
  void Drain() override {
    draining_ = true;
    boost::system::error_code error;
    acceptor_.close(error);
    for (Connection* c : connections_) {
      if (c->idle()) c->Close();
    }
  }

  bool draining() const { return draining_; }
  const HttpLimits& limits() const { return limits_; }
  const HttpHandler& handler() const { return handler_; }
  void Remove(Connection* c) { connections_.erase(c); }

 private:
  awaitable<void> Accept() {
    while (acceptor_.is_open()) {
      auto [error, socket] = co_await acceptor_.async_accept(kToken);
      if (error == asio::error::operation_aborted || !acceptor_.is_open()) co_return;
      if (error) {  // out of descriptors: wait for some to come back
        CHOIR_LOG(warn, "accept: {}", error.message());
        asio::steady_timer pause(io_, std::chrono::milliseconds(100));
        (void)co_await pause.async_wait(kToken);
        continue;
      }
      if (open_connections() >= limits_.connections_max) continue;  // closed by its destructor
      auto connection = std::make_shared<Connection>(std::move(socket), this);
      connections_.insert(connection.get());
      asio::co_spawn(
          io_, [connection] { return connection->Run(); }, asio::detached);
    }
  }

  awaitable<void> Sweep() {
    while (true) {
      sweep_.expires_after(std::chrono::seconds(1));
      if (const auto [error] = co_await sweep_.async_wait(kToken); error) co_return;
      const MonoTime now = Clock::Real().Now();
      for (Connection* c : connections_) {
        if (c->deadline() < now) c->Close();
      }
    }
  }

  asio::io_context& io_;
  tcp::acceptor acceptor_;
  asio::steady_timer sweep_;
  const HttpLimits limits_;
  const HttpHandler handler_;
  std::string address_;
  std::set<Connection*> connections_;  // each keeps itself alive while its coroutine runs
  bool draining_ = false;
};

Connection::Connection(tcp::socket socket, Server* server)
    : socket_(std::move(socket)), server_(server) {
  boost::system::error_code error;
  socket_.set_option(tcp::no_delay(true), error);
  const auto peer = socket_.remote_endpoint(error);
  if (!error) source_ = peer.address().to_string();
}

awaitable<bool> Connection::ReadSome() {
  const size_t old = buffer_.size();
  buffer_.resize(old + kReadBytes);
  auto [error, n] =
      co_await socket_.async_read_some(asio::buffer(buffer_.data() + old, kReadBytes), kToken);
  buffer_.resize(old + n);
  co_return !error && n > 0;
}

awaitable<bool> Connection::Write(std::string bytes) {
  SetDeadline(server_->limits().write_timeout);
  auto [error, n] = co_await asio::async_write(socket_, asio::buffer(bytes), kToken);
  deadline_ = MonoTime::max();
  co_return !error && n == bytes.size();
}

// True: `text` holds one header with its empty line. False: closed, or over the limit (text too
// long).
awaitable<bool> Connection::ReadHead(std::string* text) {
  idle_ = true;
  SetDeadline(server_->limits().idle_timeout);
  size_t searched = 0;
  while (true) {
    while (buffer_.starts_with("\r\n"))
      buffer_.erase(0, 2);  // RFC 9112 2.2: tolerated before a request
    if (!buffer_.empty() && idle_) {
      idle_ = false;
      SetDeadline(server_->limits().header_timeout);
    }
    const size_t end = buffer_.find("\r\n\r\n", searched > 3 ? searched - 3 : 0);
    const size_t bytes_max = static_cast<size_t>(server_->limits().header_bytes_max);
    if (end != std::string::npos || buffer_.size() > bytes_max) {
      const size_t size = end == std::string::npos ? buffer_.size() : end + 4;
      *text = buffer_.substr(0, size);
      buffer_.erase(0, size);
      deadline_ = MonoTime::max();
      co_return true;
    }
    searched = buffer_.size();
    if (!co_await ReadSome()) co_return false;
  }
}

awaitable<void> Connection::ServeOne(std::string text) {
  head_ = HttpHead{};
  answered_ = body_read_ = false;
  const HttpError error = ParseHead(text, server_->limits(), &head_);
  if (error.status != 0) {
    keep_alive_ = false;
    const std::string code = error.status == 431 ? "request_too_large" : "invalid_value";
    std::string body = R"({"error":{"message":")" + error.message +
                       R"(","type":"invalid_request_error","param":null,"code":")" + code + "\"}}";
    HttpFields fields = {{"content-type", "application/json"}};
    (void)co_await Respond(error.status, std::move(fields), std::move(body));
    co_return;
  }
  body_read_ = !head_.chunked && head_.content_length == 0;
  keep_alive_ = head_.keep_alive && !server_->draining();
  co_await server_->handler()(*this);
  if (!answered_) Close();  // the handler gave up: the client is gone
}

awaitable<void> Connection::Run() {
  const auto self = shared_from_this();
  std::string text;
  while (socket_.is_open() && co_await ReadHead(&text)) {
    co_await ServeOne(std::move(text));
    gone_ = nullptr;
    boost::system::error_code error;
    if (socket_.is_open()) socket_.cancel(error);  // the watch
    if (!body_read_) keep_alive_ = false;
    if (!keep_alive_ || server_->draining()) break;
  }
  if (socket_.is_open()) co_await Linger();
  Close();
  server_->Remove(this);
}

// Closing with unread bytes would reset the connection and lose the answer on its way.
awaitable<void> Connection::Linger() {
  boost::system::error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  SetDeadline(std::chrono::seconds(2));
  size_t discarded = 0;
  while (discarded < kLingerBytesMax) {
    buffer_.clear();
    if (!co_await ReadSome()) break;
    discarded += buffer_.size();
  }
}

awaitable<HttpError> Connection::ReadBody(std::string* body) {
  body->clear();
  if (body_read_) co_return HttpError{};
  if (head_.content_length > server_->limits().body_bytes_max) {
    co_return HttpError{413, fmt::format("the body has {} bytes, the limit is {}",
                                         head_.content_length, server_->limits().body_bytes_max)};
  }
  if (head_.expect_continue && buffer_.empty()) {
    if (!co_await Write("HTTP/1.1 100 Continue\r\n\r\n")) co_return HttpError{-1, ""};
  }
  SetDeadline(server_->limits().body_timeout);
  HttpError error;
  if (head_.chunked) {
    error = co_await ReadChunkedBody(body);
  } else {
    error = co_await ReadLengthBody(body);
  }
  deadline_ = MonoTime::max();
  body_read_ = error.status == 0;
  co_return error;
}

awaitable<HttpError> Connection::ReadLengthBody(std::string* body) {
  const size_t size = static_cast<size_t>(head_.content_length);
  while (buffer_.size() < size) {
    if (!co_await ReadSome()) co_return HttpError{-1, ""};
  }
  *body = buffer_.substr(0, size);
  buffer_.erase(0, size);
  co_return HttpError{};
}

awaitable<HttpError> Connection::ReadChunkedBody(std::string* body) {
  ChunkedDecoder decoder(server_->limits().body_bytes_max);
  while (true) {
    HttpError error = decoder.Push(&buffer_);
    if (error.status != 0) co_return error;
    if (decoder.done()) break;
    if (buffer_.size() > static_cast<size_t>(server_->limits().header_bytes_max)) {
      co_return HttpError{400, "a chunk header or trailer is too long"};
    }
    if (!co_await ReadSome()) co_return HttpError{-1, ""};
  }
  *body = decoder.TakeBody();
  co_return HttpError{};
}

std::string Connection::HeadText(int status, const HttpFields& fields, bool with_length,
                                 size_t length) {
  if (!body_read_) keep_alive_ = false;
  std::string text = fmt::format("HTTP/1.1 {} {}\r\n", status, ReasonPhrase(status));
  bool has_id = false;
  for (const auto& [name, value] : fields) {
    has_id |= name == "x-request-id";
    text += name + ": " + value + "\r\n";
  }
  if (!has_id) {
    const std::string_view given = head_.Field("x-request-id");
    text += fmt::format("x-request-id: {}\r\n", IsRequestId(given) ? given : MakeRequestId());
  }
  if (with_length) {
    text += fmt::format("content-length: {}\r\n", length);
  } else if (head_.minor_version == 1) {
    text += "transfer-encoding: chunked\r\n";
  }
  if (!keep_alive_) {
    text += "connection: close\r\n";
  } else if (head_.minor_version == 0) {
    text += "connection: keep-alive\r\n";
  }
  return text + "\r\n";
}

awaitable<bool> Connection::Respond(int status, HttpFields fields, std::string body) {
  CHOIR_CHECK(!answered_);
  answered_ = true;
  std::string text = HeadText(status, fields, true, body.size());
  if (head_.method != "HEAD") text += body;
  co_return co_await Write(std::move(text));
}

awaitable<bool> Connection::StartStream(int status, HttpFields fields) {
  CHOIR_CHECK(!answered_);
  answered_ = true;
  chunked_answer_ = head_.minor_version == 1;
  if (!chunked_answer_) keep_alive_ = false;
  std::string text = HeadText(status, fields, false, 0);
  co_return co_await Write(std::move(text));
}

awaitable<bool> Connection::WriteStream(std::string bytes) {
  if (bytes.empty()) co_return true;
  if (chunked_answer_) bytes = fmt::format("{:x}\r\n", bytes.size()) + bytes + "\r\n";
  co_return co_await Write(std::move(bytes));
}

awaitable<bool> Connection::EndStream() {
  if (!chunked_answer_) co_return true;
  co_return co_await Write("0\r\n\r\n");
}

void Connection::WatchClient(std::function<void()> gone) {
  gone_ = std::move(gone);
  socket_.async_wait(
      tcp::socket::wait_read, [self = shared_from_this()](boost::system::error_code error) {
        if (!self->gone_) return;  // the answer is complete
        char byte;
        const bool closed =
            error || recv(self->socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
        if (closed) std::exchange(self->gone_, nullptr)();
        // Otherwise the next request is already here (pipelining); a later close shows when
        // writing.
      });
}

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Make(asio::io_context& io,
                                                       const std::string& listen,
                                                       const HttpLimits& limits,
                                                       HttpHandler handler) {
  auto server = std::make_unique<Server>(io, limits, std::move(handler));
  CHOIR_RETURN_IF_ERROR(server->Open(listen));
  return server;
}

}  // namespace choir
