#include "gateway/http/http_connection.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "common/base/check.h"
#include "common/base/log.h"
#include "gateway/http/chunked_decoder.h"
#include "gateway/http/request_id.h"

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
constexpr size_t kLingerBytesMax = 1 << 20;  // of an unread body, before the connection is closed
constexpr auto kLingerTime = std::chrono::seconds(2);
constexpr size_t kAheadBytesMax = 64 << 10;            // of pipelined requests, read while one runs
constexpr auto kFirstProbe = std::chrono::seconds(1);  // short answers need no interim response
constexpr auto kNextProbe = std::chrono::seconds(2);
constexpr std::string_view kInterim = "HTTP/1.1 100 Continue\r\n\r\n";

std::string Chunk(const std::string& bytes) {
  return fmt::format("{:x}\r\n", bytes.size()) + bytes + "\r\n";
}

}  // namespace

HttpConnection::HttpConnection(HttpSocket socket, HttpHost* host)
    : socket_(std::move(socket)),
      host_(host),
      source_(socket_.peer_address()),
      probe_timer_(socket_.raw().get_executor()) {}

// The deadline is for each piece that the client takes: a large answer may take its time.
awaitable<bool> HttpConnection::Write(std::string bytes) {
  writing_ = true;
  size_t done = 0;
  bool good = true;
  while (good && done < bytes.size()) {
    SetDeadline(host_->limits.write_timeout);
    const size_t n = co_await socket_.WriteSome({bytes.data() + done, bytes.size() - done});
    done += n;
    good = n > 0;
  }
  writing_ = false;
  deadline_ = MonoTime::max();
  co_return good;
}

// True: `text` holds one header with its empty line, or `error` says why it never will. False:
// closed.
awaitable<bool> HttpConnection::ReadHead(std::string* text, HttpError* error) {
  idle_ = true;
  SetDeadline(host_->limits.idle_timeout);
  HeadScanner scanner;
  size_t searched = 0;
  while (true) {
    if (!buffer_.empty() && idle_) {
      idle_ = false;
      SetDeadline(host_->limits.header_timeout);
    }
    size_t blank = 0;  // RFC 9112 2.2: empty lines are tolerated before a request
    while (buffer_.compare(blank, 2, "\r\n") == 0) blank += 2;
    buffer_.erase(0, blank);
    const size_t end = buffer_.find("\r\n\r\n", searched > 3 ? searched - 3 : 0);
    const size_t size = end == std::string::npos ? buffer_.size() : end + 4;
    if (buffer_ != "\r") *error = scanner.Scan({buffer_.data(), size}, host_->limits);
    if (end == std::string::npos && error->status == 0 &&
        size > static_cast<size_t>(host_->limits.header_bytes_max)) {
      *error = HeaderTooLarge(host_->limits);
    }
    if (end != std::string::npos || error->status != 0) {
      *text = buffer_.substr(0, size);
      buffer_.erase(0, size);
      deadline_ = MonoTime::max();
      co_return true;
    }
    searched = buffer_.size();
    if (!co_await ReadSome()) co_return false;
  }
}

awaitable<void> HttpConnection::Refuse(const HttpError& error) {
  keep_alive_ = false;
  const std::string code = error.status == 431 ? "request_too_large" : "invalid_value";
  std::string body = R"({"error":{"message":")" + error.message +
                     R"(","type":"invalid_request_error","param":null,"code":")" + code + "\"}}";
  HttpFields fields = {{"content-type", "application/json"}};
  (void)co_await Respond(error.status, std::move(fields), std::move(body));
  if (host_->on_refused) host_->on_refused(error.status, request_id_);
}

awaitable<void> HttpConnection::ServeOne(std::string text, HttpError error) {
  head_ = HttpHead{};
  common_fields_.clear();
  request_id_.clear();
  answered_ = body_read_ = streaming_ = false;
  stream_head_.clear();
  if (error.status == 0) error = ParseHead(text, host_->limits, &head_);
  if (error.status != 0) co_return co_await Refuse(error);
  body_read_ = !head_.chunked && head_.content_length == 0;
  keep_alive_ = head_.keep_alive && !host_->draining;
  co_await host_->handler(*this);
  EndWatch();
  if (!answered_) Close();  // the handler gave up: the client is gone
}

awaitable<void> HttpConnection::Run() {
  const auto self = shared_from_this();
  std::string text;
  HttpError error;
  SetDeadline(host_->limits.header_timeout);
  const bool begun = co_await socket_.Handshake();
  while (begun && socket_.is_open() && co_await ReadHead(&text, &error)) {
    co_await ServeOne(std::move(text), error);
    if (!body_read_ || !keep_alive_ || host_->draining) break;
  }
  if (begun && socket_.is_open()) {
    SetDeadline(kLingerTime);
    co_await socket_.Linger(kLingerBytesMax);
  }
  Close();
  host_->connections.erase(this);
}

awaitable<HttpError> HttpConnection::ReadBody(std::string* body) {
  body->clear();
  if (body_read_) co_return HttpError{};
  if (head_.content_length > host_->limits.body_bytes_max) {
    co_return HttpError{413, fmt::format("the body has {} bytes, the limit is {}",
                                         head_.content_length, host_->limits.body_bytes_max)};
  }
  if (head_.expect_continue && buffer_.empty()) {
    if (!co_await Write(std::string(kInterim))) co_return HttpError{-1, ""};
  }
  SetDeadline(host_->limits.body_timeout);
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

awaitable<HttpError> HttpConnection::ReadLengthBody(std::string* body) {
  const size_t size = static_cast<size_t>(head_.content_length);
  while (buffer_.size() < size) {
    if (!co_await ReadSome()) co_return HttpError{-1, ""};
  }
  *body = buffer_.substr(0, size);
  buffer_.erase(0, size);
  co_return HttpError{};
}

awaitable<HttpError> HttpConnection::ReadChunkedBody(std::string* body) {
  ChunkedDecoder decoder(host_->limits.body_bytes_max);
  while (true) {
    HttpError error = decoder.Push(&buffer_);
    if (error.status != 0) co_return error;
    if (decoder.done()) break;
    if (!co_await ReadSome()) co_return HttpError{-1, ""};
  }
  *body = decoder.TakeBody();
  co_return HttpError{};
}

// An answer that did not need the body: when all of it is here, the connection can go on.
void HttpConnection::SkipBufferedBody() {
  if (body_read_ || head_.chunked || head_.expect_continue) return;
  if (head_.content_length > buffer_.size()) return;
  buffer_.erase(0, static_cast<size_t>(head_.content_length));
  body_read_ = true;
}

std::string HttpConnection::HeadText(int status, const HttpFields& fields, bool with_length,
                                     size_t length) {
  SkipBufferedBody();
  if (!body_read_) keep_alive_ = false;
  std::string text = fmt::format("HTTP/1.1 {} {}\r\n", status, ReasonPhrase(status));
  const std::string given = GivenRequestId(head_);
  std::string id;
  for (const HttpFields* list : {&fields, &std::as_const(common_fields_)}) {
    for (const auto& [name, value] : *list) {
      if (name == "x-request-id") id = value;
      text += name + ": " + value + "\r\n";
    }
  }
  if (id.empty()) {
    id = given.empty() ? MakeRequestId() : given;
    text += "x-request-id: " + id + "\r\n";
  }
  request_id_ = id;
  // Another request has the client's name now.
  if (!given.empty() && id != given) text += "x-client-request-id: " + given + "\r\n";
  if (with_length && status != 204) {
    text += fmt::format("content-length: {}\r\n", length);
  } else if (!with_length && head_.minor_version == 1) {
    text += "transfer-encoding: chunked\r\n";
  }
  if (!keep_alive_) {
    text += "connection: close\r\n";
  } else if (head_.minor_version == 0) {
    text += "connection: keep-alive\r\n";
  }
  return text + "\r\n";
}

awaitable<bool> HttpConnection::Respond(int status, HttpFields fields, std::string body) {
  CHOIR_CHECK(!answered_);
  answered_ = true;
  std::string text = HeadText(status, fields, true, body.size());
  if (head_.method != "HEAD") text += body;
  co_return co_await Write(std::move(text));
}

awaitable<bool> HttpConnection::StartStream(int status, HttpFields fields) {
  CHOIR_CHECK(!answered_);
  answered_ = streaming_ = true;
  chunked_answer_ = head_.minor_version == 1;
  if (!chunked_answer_) keep_alive_ = false;
  stream_head_ = HeadText(status, fields, false, 0);
  co_return true;
}

awaitable<bool> HttpConnection::WriteStream(std::string bytes) {
  if (chunked_answer_ && !bytes.empty()) bytes = Chunk(bytes);
  bytes.insert(0, std::exchange(stream_head_, {}));
  co_return bytes.empty() || co_await Write(std::move(bytes));
}

awaitable<bool> HttpConnection::EndStream(std::string bytes) {
  streaming_ = false;
  if (chunked_answer_) bytes = (bytes.empty() ? "" : Chunk(bytes)) + "0\r\n\r\n";
  bytes.insert(0, std::exchange(stream_head_, {}));
  co_return bytes.empty() || co_await Write(std::move(bytes));
}

void HttpConnection::WatchClient(std::function<void()> gone, std::string probe) {
  gone_ = std::move(gone);
  ++watch_;
  probe_ = std::move(probe);
  WatchReads();
}

void HttpConnection::EndWatch() {
  gone_ = nullptr;
  probe_timer_.cancel();
  boost::system::error_code error;
  if (socket_.is_open()) socket_.raw().cancel(error);
}

void HttpConnection::Gone() {
  if (gone_) std::exchange(gone_, nullptr)();
}

void HttpConnection::WatchReads() {
  if (socket_.is_tls()) return WatchTlsReads();
  socket_.raw().async_wait(tcp::socket::wait_read, [self = shared_from_this(), watch = watch_](
                                                       boost::system::error_code error) {
    if (!self->gone_ || self->watch_ != watch) return;
    if (error) return self->Gone();
    self->TakeAhead();
  });
}

// A close is a message like any other there: only reading shows it.
void HttpConnection::WatchTlsReads() {
  socket_.ReadAhead([self = shared_from_this(), watch = watch_](bool open) {
    if (!self->gone_ || self->watch_ != watch) return;
    if (!open) return self->Gone();
    self->socket_.TakeAhead(&self->buffer_);
    self->buffer_.size() < kAheadBytesMax ? self->WatchTlsReads() : self->WatchErrors();
  });
}

void HttpConnection::WatchErrors() {
  socket_.raw().async_wait(tcp::socket::wait_error,
                           [self = shared_from_this(), watch = watch_](boost::system::error_code) {
                             if (self->watch_ == watch) self->Gone();
                           });
}

// Reads what the client sends while its request runs: the next requests, or its end.
void HttpConnection::TakeAhead() {
  char bytes[4096];
  while (buffer_.size() < kAheadBytesMax) {
    const ssize_t n = recv(socket_.raw().native_handle(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return WatchReads();
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Gone();
    if (n == 0) {
      WatchErrors();
      return ProbeAfter(kFirstProbe);
    }
    buffer_.append(bytes, static_cast<size_t>(n));
  }
  WatchErrors();  // enough is read: from here on only a reset or a failed write shows the end
}

void HttpConnection::ProbeAfter(Duration wait) {
  probe_timer_.expires_after(std::chrono::duration_cast<asio::steady_timer::duration>(wait));
  probe_timer_.async_wait(
      [self = shared_from_this(), watch = watch_](boost::system::error_code error) {
        if (!error && self->gone_ && self->watch_ == watch) self->Probe();
      });
}

// A write that is under way, or comes soon, is a probe of its own.
void HttpConnection::Probe() {
  if (!writing_ && (!answered_ || streaming_)) {
    if (!answered_ && head_.minor_version == 0) return Gone();  // knows no interim response
    std::string bytes(kInterim);
    if (streaming_) bytes = chunked_answer_ ? Chunk(probe_) : probe_;
    const ssize_t n = send(socket_.raw().native_handle(), bytes.data(), bytes.size(),
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return ProbeAfter(kNextProbe);
    if (n != static_cast<ssize_t>(bytes.size())) return Gone();
  }
  ProbeAfter(kNextProbe);
}

}  // namespace choir
