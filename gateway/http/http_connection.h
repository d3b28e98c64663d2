// One client's connection: a coroutine that reads one request after the other (pipelining allowed)
// and gives each to the handler. Owned by its coroutine, listed in the HttpHost; io thread only.
//
// A client that has closed and one that has only shut its sending side down (and waits for the
// answer) look the same until something is sent to them. So a connection that ends while a request
// runs is probed: with the bytes that WatchClient was given once a stream has begun, with an
// interim 100 response before that. A client that is gone answers with a reset. Under TLS, where
// nobody shuts one side down, an end is an end.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "common/base/clock.h"
#include "gateway/http/http_server.h"
#include "gateway/http/http_socket.h"

namespace choir {

class HttpConnection;

// What the connections of a server share; outlives them.
struct HttpHost {
  HttpLimits limits;
  HttpHandler handler;
  HttpRefusedHook on_refused;  // may be empty
  std::set<HttpConnection*> connections;
  bool draining = false;
};

class HttpConnection final : public HttpExchange,
                             public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(HttpSocket socket, HttpHost* host);
  // Until the connection ends; then it is off the host's list.
  boost::asio::awaitable<void> Run();
  void Close() { socket_.Close(); }

  bool idle() const { return idle_; }  // between requests
  MonoTime deadline() const { return deadline_; }

  // HttpExchange
  const HttpHead& head() const override { return head_; }
  std::string source() const override { return source_; }
  boost::asio::awaitable<HttpError> ReadBody(std::string* body) override;
  boost::asio::awaitable<bool> Respond(int status, HttpFields fields, std::string body) override;
  boost::asio::awaitable<bool> StartStream(int status, HttpFields fields) override;
  boost::asio::awaitable<bool> WriteStream(std::string bytes) override;
  boost::asio::awaitable<bool> EndStream(std::string bytes) override;
  void SetCommonFields(HttpFields fields) override { common_fields_ = std::move(fields); }
  void WatchClient(std::function<void()> gone, std::string probe) override;
  bool answered() const override { return answered_; }
  const std::string& request_id() const override { return request_id_; }
  void Abort() override { Close(); }

 private:
  boost::asio::awaitable<bool> ReadHead(std::string* text, HttpError* error);
  boost::asio::awaitable<bool> ReadSome() { return socket_.ReadSome(&buffer_); }
  boost::asio::awaitable<bool> Write(std::string bytes);
  boost::asio::awaitable<HttpError> ReadLengthBody(std::string* body);
  boost::asio::awaitable<HttpError> ReadChunkedBody(std::string* body);
  boost::asio::awaitable<void> ServeOne(std::string text, HttpError error);
  boost::asio::awaitable<void> Refuse(const HttpError& error);
  std::string HeadText(int status, const HttpFields& fields, bool with_length, size_t length);
  void SkipBufferedBody();
  void SetDeadline(Duration d) { deadline_ = Clock::Real().Now() + d; }

  // While a request runs.
  void WatchReads();
  void WatchTlsReads();
  void WatchErrors();
  void TakeAhead();
  void ProbeAfter(Duration wait);
  void Probe();
  void Gone();
  void EndWatch();

  HttpSocket socket_;
  HttpHost* const host_;
  std::string source_;
  std::string buffer_;  // read, not yet consumed
  HttpHead head_;
  HttpFields common_fields_;
  std::string request_id_;  // of the answer
  MonoTime deadline_ = MonoTime::max();
  bool idle_ = true;
  bool answered_ = false;
  bool body_read_ = false;
  bool keep_alive_ = false;
  bool chunked_answer_ = false;
  std::string stream_head_;  // until the first write
  bool streaming_ = false;
  bool writing_ = false;
  std::function<void()> gone_;  // set while watched
  uint64_t watch_ = 0;          // which watch: what an older one still waits for means nothing
  std::string probe_;
  boost::asio::steady_timer probe_timer_;
};

}  // namespace choir
