// The bytes between a router and Redis: name, TCP, and TLS where the address asks for it. Then the
// server has to show a certificate that an authority signed for the host of the address. Of the
// thread that runs the io_context; whoever operates on it keeps it alive.
#pragma once

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/tls/certificate.h"
#include "router/limits/redis/name_lookup.h"
#include "router/limits/redis/redis_url.h"

namespace choir {

class RedisLink {
 public:
  template <typename T>
  using awaitable = boost::asio::awaitable<T>;
  using tcp = boost::asio::ip::tcp;

  RedisLink(boost::asio::io_context& io, NameLookupOptions lookup);

  // Once; where the host of the address is.
  awaitable<StatusOr<std::vector<tcp::endpoint>>> Find(const RedisAddress& address);
  // Once, at what was found. With TLS the files of `tls` are read: its ca, or else the system's
  // authorities, and its certificate, if it has one.
  awaitable<Status> Open(const std::vector<tcp::endpoint>& endpoints, const RedisAddress& address,
                         const TlsOptions& tls);
  // What came, until the next call.
  awaitable<StatusOr<std::string_view>> Read();
  // All of it. An error is no news: Read has it, too, and knows more of its cause.
  awaitable<Status> Write(std::string_view bytes);
  // What is under way ends with an error.
  void Close();

 private:
  Status PrepareTls(const std::string& host, const TlsOptions& options);
  Status Why(const char* what, const boost::system::error_code& error) const;

  tcp::socket socket_;
  NameLookup lookup_;
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::optional<boost::asio::ssl::stream<tcp::socket&>> tls_;
  std::string refusal_;  // of the server's certificate
  std::array<char, 16 << 10> space_{};
};

}  // namespace choir
