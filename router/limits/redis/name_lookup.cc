#include "router/limits/redis/name_lookup.h"

#include <ares.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

namespace choir {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr int kTryMs = 1000;  // of one server; twice that the second time
constexpr int kTries = 2;

std::vector<tcp::endpoint> EndpointsOf(const ares_addrinfo& found) {
  std::vector<tcp::endpoint> endpoints;
  for (const ares_addrinfo_node* node = found.nodes; node != nullptr; node = node->ai_next) {
    tcp::endpoint endpoint;
    if (node->ai_addrlen > endpoint.capacity()) continue;
    std::memcpy(endpoint.data(), node->ai_addr, node->ai_addrlen);
    endpoint.resize(node->ai_addrlen);
    endpoints.push_back(endpoint);
  }
  return endpoints;
}

}  // namespace

// c-ares asks for its sockets to be watched, and is told what happens to them.
class NameLookup::Query : public std::enable_shared_from_this<Query> {
 public:
  explicit Query(asio::io_context& io) : over_(io), io_(io), alarm_(io) {}

  Status Start(const NameLookupOptions& options, const std::string& host, int port) {
    static const int kReady = ares_library_init(ARES_LIB_INIT_ALL);
    ares_options wanted{};
    wanted.timeout = kTryMs;
    wanted.tries = kTries;
    wanted.sock_state_cb = [](void* self, ares_socket_t fd, int readable, int writable) {
      static_cast<Query*>(self)->Want(fd, readable != 0, writable != 0);
    };
    wanted.sock_state_cb_data = this;
    const int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB;
    int rc = kReady == ARES_SUCCESS ? ares_init_options(&channel_, &wanted, mask) : kReady;
    if (rc == ARES_SUCCESS && !options.servers.empty()) {
      rc = ares_set_servers_ports_csv(channel_, options.servers.c_str());
    }
    if (rc != ARES_SUCCESS) return Unavailable("{}: {}", host, ares_strerror(rc));
    host_ = host;
    over_.expires_after(options.timeout);
    ares_addrinfo_hints hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = ARES_AI_NUMERICSERV;
    const auto done = [](void* self, int status, int, ares_addrinfo* found) {
      static_cast<Query*>(self)->OnDone(status, found);
    };
    ares_getaddrinfo(channel_, host.c_str(), std::to_string(port).c_str(), &hints, done, this);
    SetAlarm();
    return absl::OkStatus();
  }

  // Not within a call of c-ares. Nothing is watched afterwards.
  void Close() {
    if (channel_ != nullptr) ares_destroy(std::exchange(channel_, nullptr));
    alarm_.cancel();
  }

  asio::steady_timer over_;  // waits for the result, and is cancelled by it
  std::optional<StatusOr<std::vector<tcp::endpoint>>> result_;

 private:
  struct Socket {
    Socket(asio::io_context& io, ares_socket_t fd) : descriptor(io, fd) {}
    asio::posix::stream_descriptor descriptor;
    bool read = false, write = false;       // wanted
    bool reading = false, writing = false;  // waited for
  };

  void OnDone(int status, ares_addrinfo* found) {
    if (status == ARES_SUCCESS) {
      result_ = EndpointsOf(*found);
      ares_freeaddrinfo(found);
    } else if (status == ARES_ENOTFOUND || status == ARES_ENODATA) {
      result_ = NotFound("{}: no such name", host_);
    } else if (status != ARES_EDESTRUCTION) {
      result_ = Unavailable("{}: {}", host_, ares_strerror(status));
    }
    over_.cancel();
  }

  void Want(ares_socket_t fd, bool read, bool write) {
    std::shared_ptr<Socket>& socket = sockets_[fd];
    if (!read && !write) {  // c-ares closes it
      if (socket != nullptr) socket->descriptor.release();
      sockets_.erase(fd);
      return;
    }
    if (socket == nullptr) socket = std::make_shared<Socket>(io_, fd);
    socket->read = read;
    socket->write = write;
    Wait(fd, socket);
  }

  void Wait(ares_socket_t fd, const std::shared_ptr<Socket>& socket) {
    using Descriptor = asio::posix::stream_descriptor;
    const auto wait = [&](Descriptor::wait_type type, bool wanted, bool Socket::*waiting) {
      if (!wanted || std::exchange((*socket).*waiting, true)) return;
      socket->descriptor.async_wait(
          type, [self = shared_from_this(), fd, socket, type, waiting](const auto& error) {
            (*socket).*waiting = false;
            if (!error) self->OnReady(fd, socket, type == Descriptor::wait_read);
          });
    };
    wait(Descriptor::wait_read, socket->read, &Socket::reading);
    wait(Descriptor::wait_write, socket->write, &Socket::writing);
  }

  void OnReady(ares_socket_t fd, const std::shared_ptr<Socket>& socket, bool readable) {
    if (channel_ == nullptr || !socket->descriptor.is_open()) return;
    ares_process_fd(channel_, readable ? fd : ARES_SOCKET_BAD, readable ? ARES_SOCKET_BAD : fd);
    if (socket->descriptor.is_open()) Wait(fd, socket);
    SetAlarm();
  }

  // When c-ares asks again, or another server.
  void SetAlarm() {
    timeval space{};
    const timeval* const next = ares_timeout(channel_, nullptr, &space);
    if (next == nullptr) return;
    alarm_.expires_after(std::chrono::seconds(next->tv_sec) +
                         std::chrono::microseconds(next->tv_usec));
    alarm_.async_wait([self = shared_from_this()](const auto& error) {
      if (error || self->channel_ == nullptr) return;
      ares_process_fd(self->channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
      self->SetAlarm();
    });
  }

  asio::io_context& io_;
  asio::steady_timer alarm_;
  std::string host_;
  ares_channel channel_ = nullptr;
  std::map<ares_socket_t, std::shared_ptr<Socket>> sockets_;
};

NameLookup::NameLookup(asio::io_context& io, NameLookupOptions options)
    : io_(io), options_(std::move(options)) {}

NameLookup::~NameLookup() = default;

asio::awaitable<StatusOr<std::vector<tcp::endpoint>>> NameLookup::Find(std::string host, int port) {
  boost::system::error_code no_address;
  const auto address = asio::ip::make_address(host, no_address);
  if (!no_address) {
    co_return std::vector{tcp::endpoint(address, static_cast<asio::ip::port_type>(port))};
  }
  const auto query = query_ = std::make_shared<Query>(io_);
  const Status started = query->Start(options_, host, port);
  if (started.ok() && !query->result_) (void)co_await query->over_.async_wait(kToken);
  query->Close();
  query_.reset();
  if (!started.ok()) co_return started;
  if (!query->result_) co_return Unavailable("{}: no answer from the name servers", host);
  co_return *std::move(query->result_);
}

void NameLookup::Cancel() {
  if (query_ != nullptr) query_->over_.cancel();
}

}  // namespace choir
