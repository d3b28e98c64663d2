#include "common/http/admin_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <thread>
#include <utility>

#include "common/base/log.h"
#include "common/http/listen.h"

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr auto kConnectionTime = std::chrono::seconds(10);
constexpr size_t kHeaderBytesMax = 16 << 10;

struct Answer {
  const char* status = "200 OK";
  const char* type = "text/plain; charset=utf-8";
  const char* allow = "";  // methods, of a 405
  std::string body;
};

Answer HealthAnswer(const std::function<Status()>& check) {
  if (const Status s = check(); !s.ok())
    return {.status = "503 Service Unavailable", .body = MessageOf(s) + "\n"};
  return {.body = "ok\n"};
}

// The query is "?level=NAME".
Answer PutLogLevel(const std::string& query) {
  constexpr std::string_view kLevel = "?level=";
  const std::string before = LogLevel();
  const Status set = query.starts_with(kLevel)
                         ? SetLogLevel(query.substr(kLevel.size()))
                         : InvalidArgument("PUT /loglevel?level=NAME is understood");
  if (!set.ok()) return {.status = "400 Bad Request", .body = MessageOf(set) + "\n"};
  CHOIR_LOG(warn, "log level {} instead of {} from now on", LogLevel(), before);
  return {.body = LogLevel() + "\n"};
}

// One request, one answer, then the connection is closed: scrapers and probes need no more.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const AdminHandlers* handlers)
      : socket_(std::move(socket)),
        timer_(socket_.get_executor()),
        handlers_(handlers),
        buffer_(kHeaderBytesMax) {}

  void Start() {
    timer_.expires_after(kConnectionTime);
    timer_.async_wait([self = shared_from_this()](boost::system::error_code error) {
      if (!error) self->socket_.close(error);
    });
    asio::async_read_until(socket_, buffer_, "\r\n\r\n",
                           [self = shared_from_this()](boost::system::error_code error, size_t) {
                             if (!error) return self->Reply();
                             self->timer_.cancel();
                           });
  }

 private:
  Answer Handle(const std::string& method, const std::string& target) {
    const std::string path = target.substr(0, target.find('?'));
    if (method == "PUT" && path == "/loglevel") return PutLogLevel(target.substr(path.size()));
    if (method != "GET" && method != "HEAD") {
      const bool log_level = path == "/loglevel";
      return {.status = "405 Method Not Allowed",
              .allow = log_level ? "GET, HEAD, PUT" : "GET, HEAD",
              .body = log_level ? "GET or PUT\n" : "GET only\n"};
    }
    if (path == "/metrics")
      return {.type = "text/plain; version=0.0.4; charset=utf-8", .body = handlers_->metrics()};
    if (path == "/livez") return HealthAnswer(handlers_->live);
    if (path == "/readyz") return HealthAnswer(handlers_->ready);
    if (path == "/statusz") return {.type = "application/json", .body = handlers_->status() + "\n"};
    if (path == "/loglevel") return {.body = LogLevel() + "\n"};
    return {.status = "404 Not Found", .body = "/metrics /livez /readyz /statusz /loglevel\n"};
  }

  void Reply() {
    std::istream in(&buffer_);
    std::string method, target;
    in >> method >> target;
    const Answer answer = Handle(method, target);
    const std::string allow = *answer.allow == 0 ? "" : fmt::format("Allow: {}\r\n", answer.allow);
    text_ = fmt::format(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
        answer.status, answer.type, answer.body.size(), allow);
    if (method != "HEAD") text_ += answer.body;
    asio::async_write(socket_, asio::buffer(text_),
                      [self = shared_from_this()](boost::system::error_code error, size_t) {
                        self->socket_.shutdown(tcp::socket::shutdown_send, error);
                        self->timer_.cancel();
                      });
  }

  tcp::socket socket_;
  asio::steady_timer timer_;
  const AdminHandlers* handlers_;
  asio::streambuf buffer_;
  std::string text_;
};

class AsioAdminServer final : public AdminServer {
 public:
  AsioAdminServer(AdminHandlers handlers) : handlers_(std::move(handlers)), acceptor_(io_) {}
  ~AsioAdminServer() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Open(const std::string& listen) {
    CHOIR_ASSIGN_OR_RETURN(address_, Listen(acceptor_, listen, "--admin"));
    Accept();
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "admin");
      io_.run();
    });
    return absl::OkStatus();
  }
  std::string address() const override { return address_; }

 private:
  void Accept() {
    acceptor_.async_accept([this](boost::system::error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error) std::make_shared<Connection>(std::move(socket), &handlers_)->Start();
      Accept();
    });
  }

  const AdminHandlers handlers_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  std::string address_;
  std::thread thread_;
};

}  // namespace

StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& listen,
                                                          AdminHandlers handlers) {
  auto server = std::make_unique<AsioAdminServer>(std::move(handlers));
  CHOIR_RETURN_IF_ERROR(server->Open(listen));
  return server;
}

}  // namespace choir
