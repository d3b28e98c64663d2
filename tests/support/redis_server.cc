#include "tests/support/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <random>
#include <vector>

#include "common/base/check.h"

namespace choir {
namespace {

int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  CHOIR_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
  CHOIR_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(fd);
  return ntohs(address.sin_port);
}

}  // namespace

std::unique_ptr<RedisServer> RedisServer::Start(std::optional<RedisServerTls> tls) {
  if (access("/usr/bin/redis-server", X_OK) != 0) return nullptr;
  std::unique_ptr<RedisServer> server(new RedisServer(std::move(tls)));
  std::random_device random;
  server->password_ = "test" + std::to_string(random()) + std::to_string(random());
  for (int attempt = 0; attempt < 20; ++attempt) {
    server->port_ = FreePort();  // another process may take it first
    if (server->Spawn()) return server;
  }
  return nullptr;
}

RedisServer::~RedisServer() { Kill(); }

std::string RedisServer::url(const std::string& host) const {
  return (tls_ ? "rediss://:" : "redis://:") + password_ + "@" + host + ":" + std::to_string(port_);
}

bool RedisServer::Spawn() {
  int out[2];
  CHOIR_CHECK(pipe2(out, O_CLOEXEC) == 0);
  const std::string port = std::to_string(port_);
  std::vector<std::string> args = {
      "redis-server", "--bind",       "127.0.0.1", "--save",        "",       "--dir",
      "/tmp",         "--appendonly", "no",        "--requirepass", password_};
  if (tls_) {
    args.insert(args.end(), {"--port", "0", "--tls-port", port, "--tls-cert-file", tls_->cert,
                             "--tls-key-file", tls_->key, "--tls-ca-cert-file", tls_->ca,
                             "--tls-auth-clients", tls_->demand_client ? "yes" : "no"});
  } else {
    args.insert(args.end(), {"--port", port});
  }
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(out[1], STDOUT_FILENO);
    execv("/usr/bin/redis-server", argv.data());
    _exit(127);
  }
  close(out[1]);
  FILE* const log = fdopen(out[0], "r");
  char line[512];
  bool ready = false;
  while (!ready && fgets(line, sizeof line, log) != nullptr) {
    ready = std::string(line).find("Ready to accept connections") != std::string::npos;
  }
  fclose(log);  // what it writes later is lost: Redis ignores a broken pipe
  if (!ready) Kill();
  return ready;
}

void RedisServer::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::Pause() { kill(pid_, SIGSTOP); }
void RedisServer::Continue() { kill(pid_, SIGCONT); }

}  // namespace choir
