// One client's connection as the HTTP server uses it, plain or over TLS. Private to gateway/http.
// The io thread's; owned by the connection, which outlives every operation. At most one read and
// one write at a time; a watch counts as a read.
#pragma once

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace choir {

class HttpSocket {
 public:
  using tcp = boost::asio::ip::tcp;

  // Without a context: plain.
  HttpSocket(tcp::socket socket, std::shared_ptr<boost::asio::ssl::context> context);

  std::string peer_address() const;  // empty when it is gone already
  bool is_open() const { return stream_->socket.is_open(); }
  bool is_tls() const { return stream_->tls.has_value(); }
  // To wait on; what is sent and received past TLS is broken.
  tcp::socket& raw() { return stream_->socket; }

  // The TLS handshake; plain connections have none. A client that speaks plain HTTP to it is told
  // so in plain HTTP.
  boost::asio::awaitable<bool> Handshake();
  // Appends what came, also by an earlier ReadAhead. False: nothing comes any more.
  boost::asio::awaitable<bool> ReadSome(std::string* buffer);
  // How many bytes were written, at least one; 0: it is over.
  boost::asio::awaitable<size_t> WriteSome(std::string_view bytes);

  // Reads once while nothing else does, over TLS; cancelled by cancelling raw(). `done` hears
  // whether the client is still there, and must keep this alive. What came waits for TakeAhead or
  // the next ReadSome.
  void ReadAhead(std::function<void(bool open)> done);
  void TakeAhead(std::string* buffer);

  // Says that nothing more is sent, and lets the client take what was: reads and forgets at most
  // `bytes_max`, as closing with unread bytes would reset the connection and lose the answer.
  boost::asio::awaitable<void> Linger(size_t bytes_max);
  void Close();

 private:
  // At one address for as long as operations run on it.
  struct Stream {
    Stream(tcp::socket s, std::shared_ptr<boost::asio::ssl::context> c);

    tcp::socket socket;
    const std::shared_ptr<boost::asio::ssl::context> context;
    std::optional<boost::asio::ssl::stream<tcp::socket&>> tls;
    boost::asio::steady_timer ahead_over;  // is cancelled when reading ahead ends
    bool reading_ahead = false;
    std::array<char, 4096> space{};
    std::string ahead;
  };
  std::unique_ptr<Stream> stream_;
};

}  // namespace choir
