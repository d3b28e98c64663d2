// redis://[user][:password]@host[:port][/db], or rediss:// for TLS; password and user
// percent-encoded. Pure.
#pragma once

#include <string>

#include "common/base/status.h"

namespace choir {

struct RedisAddress {
  bool tls = false;
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string user;      // empty: Redis' default user
  std::string password;  // empty: no AUTH
  int db = 0;

  std::string HostPort() const {  // as URLs have it
    const bool v6 = host.find(':') != std::string::npos;
    return v6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
  }
  std::string Name() const { return fmt::format("{}/{}", HostPort(), db); }  // no secret
};

// Errors never quote the URL: it may hold a password.
StatusOr<RedisAddress> ParseRedisUrl(const std::string& url);

}  // namespace choir
