// HTTP/1.1 server: one io_context thread, one coroutine a connection, requests of a connection one
// after the other (pipelining allowed). The handler gets an HttpExchange and must answer it before
// it returns. Everything here runs on the io thread. Deadlines are coarse (checked once a second).
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "common/tls/tls_identity.h"
#include "gateway/http/http_parser.h"
#include "gateway/http/http_types.h"

namespace choir {

// One request and its answer. A write that fails means that the client is gone; it returns false.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpHead& head() const = 0;
  virtual std::string source() const = 0;  // the client's address

  // Reads the body (sends 100 Continue when asked for). The status is 413 or 400 when it cannot be
  // had; -1: the client is gone.
  virtual boost::asio::awaitable<HttpError> ReadBody(std::string* body) = 0;

  // An answer without `x-request-id` gets the client's, or one made here. What it said is
  // request_id() from then on.
  virtual boost::asio::awaitable<bool> Respond(int status, HttpFields fields, std::string body) = 0;

  // A streamed answer: chunked, or until close for HTTP/1.0. The header goes with the first write,
  // which may be empty and follows at once.
  virtual boost::asio::awaitable<bool> StartStream(int status, HttpFields fields) = 0;
  virtual boost::asio::awaitable<bool> WriteStream(std::string bytes) = 0;
  // With the last bytes, in one write.
  virtual boost::asio::awaitable<bool> EndStream(std::string bytes) = 0;

  // Go with every answer of this request.
  virtual void SetCommonFields(HttpFields fields) = 0;

  // Until the answer is complete: calls `gone` (once, on the io thread) when the client is gone.
  // One that only shut its sending side down is not. `probe` may be put into a streamed answer
  // between two writes, to tell them apart.
  virtual void WatchClient(std::function<void()> gone, std::string probe) = 0;
  virtual bool answered() const = 0;  // a status line was sent
  virtual const std::string& request_id() const = 0;
  virtual void Abort() = 0;  // closes the connection at once
};

using HttpHandler = std::function<boost::asio::awaitable<void>(HttpExchange&)>;
// Hears of each request that was refused for its header (400, 431, 501, 505) and so had no handler;
// by the name that its answer had.
using HttpRefusedHook = std::function<void(int status, const std::string& request_id)>;

class HttpServer {
 public:
  // With an identity: HTTPS, with its certificate.
  static StatusOr<std::unique_ptr<HttpServer>> Make(boost::asio::io_context& io,
                                                    const std::string& listen,
                                                    const HttpLimits& limits, HttpHandler handler,
                                                    HttpRefusedHook on_refused = nullptr,
                                                    std::shared_ptr<TlsIdentity> tls = nullptr);
  virtual ~HttpServer() = default;
  virtual std::string address() const = 0;  // with the real port
  virtual int64_t open_connections() const = 0;
  virtual int64_t running_requests() const = 0;
  // Every connection is closed behind its next answer.
  virtual void EndKeepAlive() = 0;
  // No new connections; idle ones are closed, running requests finish and close theirs.
  virtual void Drain() = 0;
};

}  // namespace choir
