#include "gateway/http/http_server.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>

#include "common/base/log.h"
#include "common/http/listen.h"
#include "gateway/http/http_connection.h"
#include "gateway/http/https_context.h"

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

class Server final : public HttpServer {
 public:
  Server(asio::io_context& io, const HttpLimits& limits, HttpHandler handler,
         HttpRefusedHook on_refused, std::shared_ptr<TlsIdentity> tls)
      : io_(io), acceptor_(io), sweep_(io) {
    host_.limits = limits;
    host_.handler = std::move(handler);
    host_.on_refused = std::move(on_refused);
    if (tls != nullptr) https_.emplace(std::move(tls));
  }
  ~Server() override {
    for (HttpConnection* c : host_.connections) c->Close();
  }

  Status Open(const std::string& listen) {
    CHOIR_ASSIGN_OR_RETURN(address_, Listen(acceptor_, listen, "--listen"));
    asio::co_spawn(io_, Accept(), asio::detached);
    asio::co_spawn(io_, Sweep(), asio::detached);
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }
  int64_t open_connections() const override {
    return static_cast<int64_t>(host_.connections.size());
  }
  int64_t running_requests() const override {
    int64_t n = 0;
    for (const HttpConnection* c : host_.connections) n += c->idle() ? 0 : 1;
    return n;
  }
  void EndKeepAlive() override { host_.draining = true; }
  void Drain() override {
    host_.draining = true;
    boost::system::error_code error;
    acceptor_.close(error);
    for (HttpConnection* c : host_.connections) {
      if (c->idle()) c->Close();
    }
  }

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
      if (open_connections() >= host_.limits.connections_max) continue;  // closed by its destructor
      auto context = https_ ? https_->Get() : nullptr;
      if (https_ && context == nullptr) continue;  // never plain text instead
      auto connection = std::make_shared<HttpConnection>(
          HttpSocket(std::move(socket), std::move(context)), &host_);
      host_.connections.insert(connection.get());
      asio::co_spawn(
          io_, [connection] { return connection->Run(); }, asio::detached);
    }
  }

  awaitable<void> Sweep() {
    while (true) {
      sweep_.expires_after(std::chrono::seconds(1));
      if (const auto [error] = co_await sweep_.async_wait(kToken); error) co_return;
      const MonoTime now = Clock::Real().Now();
      for (HttpConnection* c : host_.connections) {
        if (c->deadline() < now) c->Close();
      }
    }
  }

  asio::io_context& io_;
  tcp::acceptor acceptor_;
  asio::steady_timer sweep_;
  std::string address_;
  std::optional<HttpsContext> https_;
  HttpHost host_;  // each connection keeps itself alive while its coroutine runs
};

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Make(
    asio::io_context& io, const std::string& listen, const HttpLimits& limits, HttpHandler handler,
    HttpRefusedHook on_refused, std::shared_ptr<TlsIdentity> tls) {
  auto server = std::make_unique<Server>(io, limits, std::move(handler), std::move(on_refused),
                                         std::move(tls));
  CHOIR_RETURN_IF_ERROR(server->Open(listen));
  return server;
}

}  // namespace choir
