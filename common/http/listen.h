// Opening a listening socket from "host:port"; the two HTTP servers share it.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <string>

#include "common/base/status.h"

namespace choir {

// Binds and listens. Returns the address with the real port (port 0 picks a free one). The error
// names the address and `flag`, with which another one is chosen.
StatusOr<std::string> Listen(boost::asio::ip::tcp::acceptor& acceptor, const std::string& listen,
                             const char* flag);

}  // namespace choir
