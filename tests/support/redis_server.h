// A Redis server of a test's own: a child process on a free port of this machine, empty, with a
// password that only this test knows.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace choir {

// PEM files of a server that speaks TLS only.
struct RedisServerTls {
  std::string cert, key;
  std::string ca;  // of its clients
  bool demand_client = false;
};

class RedisServer {
 public:
  // Null: there is no redis-server on this machine.
  static std::unique_ptr<RedisServer> Start(std::optional<RedisServerTls> tls = std::nullopt);
  ~RedisServer();

  std::string url(const std::string& host = "127.0.0.1") const;
  // Ends it at once, and begins anew without its data on the same port.
  void Kill();
  bool Restart() { return Spawn(); }
  // Neither reads nor answers until Continue.
  void Pause();
  void Continue();

 private:
  explicit RedisServer(std::optional<RedisServerTls> tls) : tls_(std::move(tls)) {}
  bool Spawn();

  const std::optional<RedisServerTls> tls_;
  int port_ = 0;
  std::string password_;
  pid_t pid_ = -1;
};

}  // namespace choir
