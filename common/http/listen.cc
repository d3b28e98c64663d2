#include "common/http/listen.h"

namespace choir {

namespace asio = boost::asio;
using asio::ip::tcp;

StatusOr<std::string> Listen(tcp::acceptor& acceptor, const std::string& listen, const char* flag) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos) return InvalidArgument("{} '{}' is not host:port", flag, listen);
  boost::system::error_code error;
  tcp::resolver resolver(acceptor.get_executor());
  const auto found = resolver.resolve(listen.substr(0, colon), listen.substr(colon + 1), error);
  if (!error && found.empty()) error = asio::error::host_not_found;
  if (!error) acceptor.open(found.begin()->endpoint().protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(found.begin()->endpoint(), error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return Unavailable("{} cannot be used: {}; choose another address with {}", listen,
                       error.message(), flag);
  }
  return fmt::format("{}:{}", listen.substr(0, colon), acceptor.local_endpoint().port());
}

}  // namespace choir
