// Looks a host name up, by /etc/hosts and the name servers of the system (c-ares), without a thread
// and without a wait that cannot be ended. The only file pair that includes c-ares. The thread that
// runs the io_context; owned by who looks up.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

struct NameLookupOptions {
  Duration timeout = std::chrono::seconds(5);
  std::string servers;  // "127.0.0.1:53,...", for tests; empty: the system's
};

class NameLookup {
 public:
  using tcp = boost::asio::ip::tcp;

  NameLookup(boost::asio::io_context& io, NameLookupOptions options);
  ~NameLookup();

  // One at a time. The nearest address first; an address as `host` is what is found. NotFound:
  // there is no such name; Unavailable: no server says, or Cancel. This must outlive it.
  boost::asio::awaitable<StatusOr<std::vector<tcp::endpoint>>> Find(std::string host, int port);
  void Cancel();

 private:
  class Query;

  boost::asio::io_context& io_;
  const NameLookupOptions options_;
  std::shared_ptr<Query> query_;  // under way; null: none
};

}  // namespace choir
