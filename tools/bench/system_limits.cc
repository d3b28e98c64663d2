#include "tools/bench/system_limits.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "common/base/clock.h"

namespace choir::bench {
namespace {

constexpr int kRounds = 2000;
constexpr int kSyncs = 100;
constexpr size_t kPiece = 64 << 10;
constexpr int64_t kThroughputBytes = int64_t{1} << 30;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { Close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

Status Failed(const char* what) { return Internal("{}: {}", what, std::strerror(errno)); }

double MedianSeconds(int rounds, const std::function<void()>& fn) {
  std::vector<double> all;
  for (int i = 0; i < rounds; ++i) {
    const MonoTime start = Clock::Real().Now();
    fn();
    all.push_back(Seconds(Clock::Real().Now() - start));
  }
  std::nth_element(all.begin(), all.begin() + rounds / 2, all.end());
  return all[static_cast<size_t>(rounds) / 2];
}

// Calls `with` with both ends of a loopback connection.
Status WithConnection(const std::function<void(int client, int server)>& with) {
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener.ok() || !client.ok()) return Failed("loopback socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof(address);
  if (bind(listener.get(), any, length) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), any, &length) != 0 || connect(client.get(), any, length) != 0) {
    return Failed("loopback connection");
  }
  const Fd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!server.ok()) return Failed("loopback connection");
  const int on = 1;
  for (const int fd : {client.get(), server.get()}) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  with(client.get(), server.get());
  return absl::OkStatus();
}

}  // namespace

double ThreadRoundTrip() {
  const Fd there(eventfd(0, EFD_CLOEXEC));
  const Fd back(eventfd(0, EFD_CLOEXEC));
  std::thread other([&] {
    eventfd_t value = 0;
    for (int i = 0; i < kRounds; ++i) {
      if (eventfd_read(there.get(), &value) != 0 || eventfd_write(back.get(), 1) != 0) return;
    }
  });
  const double seconds = MedianSeconds(kRounds, [&] {
    eventfd_t value = 0;
    eventfd_write(there.get(), 1);
    eventfd_read(back.get(), &value);
  });
  other.join();
  return seconds;
}

StatusOr<double> TcpRoundTrip() {
  double seconds = 0;
  CHOIR_RETURN_IF_ERROR(WithConnection([&](int client, int server) {
    std::thread other([server] {
      char byte = 0;
      while (read(server, &byte, 1) == 1 && write(server, &byte, 1) == 1) {
      }
    });
    char byte = 0;
    seconds = MedianSeconds(kRounds, [&] {
      if (write(client, &byte, 1) == 1 && read(client, &byte, 1) != 1) byte = 0;
    });
    shutdown(client, SHUT_RDWR);
    other.join();
  }));
  return seconds;
}

StatusOr<double> TcpThroughput() {
  double bytes_per_s = 0;
  CHOIR_RETURN_IF_ERROR(WithConnection([&](int client, int server) {
    std::thread other([server] {
      std::vector<char> piece(kPiece);
      while (read(server, piece.data(), piece.size()) > 0) {
      }
    });
    const std::vector<char> piece(kPiece);
    int64_t sent = 0;
    const MonoTime start = Clock::Real().Now();
    while (sent < kThroughputBytes) {
      const ssize_t n = write(client, piece.data(), piece.size());
      if (n <= 0) break;
      sent += n;
    }
    shutdown(client, SHUT_WR);
    other.join();
    bytes_per_s = static_cast<double>(sent) / Seconds(Clock::Real().Now() - start);
  }));
  return bytes_per_s;
}

StatusOr<double> DurableAppend(const std::string& directory) {
  std::string path = directory + "/.choir-bench-XXXXXX";
  const Fd file(mkostemp(path.data(), O_CLOEXEC | O_APPEND));
  if (!file.ok()) {
    return FailedPrecondition("--dir {}: cannot make a file: {}", directory, std::strerror(errno));
  }
  unlink(path.c_str());
  const std::vector<char> record(4096, 'x');
  bool good = true;
  const double seconds = MedianSeconds(kSyncs, [&] {
    good = good && write(file.get(), record.data(), record.size()) == 4096;
    good = good && fdatasync(file.get()) == 0;
  });
  if (!good) return FailedPrecondition("--dir {}: {}", directory, std::strerror(errno));
  return seconds;
}

}  // namespace choir::bench
