#include "worker/comm/local_address.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <functional>

namespace choir {
namespace {

std::string Numeric(const sockaddr* address, socklen_t length) {
  char text[NI_MAXHOST] = {};
  if (getnameinfo(address, length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) return "";
  return text;
}

// Calls `look` with the addresses of `host` until one gives a result.
StatusOr<std::string> FirstOf(const std::string& host, const std::string& port,
                              const std::function<std::string(const addrinfo&)>& look) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host.c_str(), port.empty() ? nullptr : port.c_str(), &hints, &found);
  if (rc != 0) return NotFound("{}: {}", host, gai_strerror(rc));
  std::string result;
  for (const addrinfo* a = found; a != nullptr && result.empty(); a = a->ai_next) result = look(*a);
  freeaddrinfo(found);
  if (result.empty()) return NotFound("{} is no address of this machine", host);
  return result;
}

// The address of this machine that packets to `host` come from. Sends none.
StatusOr<std::string> AddressTowards(const std::string& host) {
  return FirstOf(host, "9", [](const addrinfo& a) -> std::string {
    const int fd = socket(a.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return "";
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    auto* address = reinterpret_cast<sockaddr*>(&own);
    const bool known =
        connect(fd, a.ai_addr, a.ai_addrlen) == 0 && getsockname(fd, address, &length) == 0;
    close(fd);
    return known ? Numeric(address, length) : "";
  });
}

}  // namespace

StatusOr<std::string> OwnAddress(const std::string& host) {
  return FirstOf(host, "", [](const addrinfo& a) -> std::string {
    const int fd = socket(a.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return "";
    const bool own = bind(fd, a.ai_addr, a.ai_addrlen) == 0;
    close(fd);
    return own ? Numeric(a.ai_addr, a.ai_addrlen) : "";
  });
}

std::string InterfaceOf(const std::string& address) {
  ifaddrs* found = nullptr;
  if (getifaddrs(&found) != 0) return "";
  std::string name;
  for (const ifaddrs* i = found; i != nullptr && name.empty(); i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    const bool v4 = i->ifa_addr->sa_family == AF_INET, v6 = i->ifa_addr->sa_family == AF_INET6;
    if (!v4 && !v6) continue;
    const socklen_t length = v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (Numeric(i->ifa_addr, length) == address) name = i->ifa_name;
  }
  freeifaddrs(found);
  return name;
}

std::string HostOf(const std::string& host_and_port) {
  std::string host = host_and_port.substr(0, host_and_port.rfind(':'));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return host;
}

bool IsWildcard(const std::string& host) {
  return host.empty() || host == "*" || host == "0.0.0.0" || host == "::" || host == "[::]";
}

bool IsLoopbackHost(const std::string& host) {
  return host == "localhost" || host == "::1" || host == "[::1]" || host.starts_with("127.");
}

StatusOr<std::string> MeshAddress(const MeshAddressHints& hints) {
  StatusOr<std::string> address = NotFound("nothing says which");
  if (!hints.group_listen.empty()) {
    address = OwnAddress(hints.group_listen);
  } else if (!hints.advertise.empty()) {
    address = OwnAddress(HostOf(hints.advertise));
  } else if (!IsWildcard(HostOf(hints.listen))) {
    address = OwnAddress(HostOf(hints.listen));
  } else if (!hints.leader.empty()) {
    address = AddressTowards(HostOf(hints.leader));
  } else {
    char name[HOST_NAME_MAX + 1] = {};
    if (gethostname(name, sizeof name - 1) == 0) address = OwnAddress(name);
  }
  // Loopback, if named: containers that share their network, not their processes.
  if (address.ok() && (!IsLoopbackHost(*address) || !hints.group_listen.empty())) return address;
  return NotFound(
      "the group runs on several hosts, and this rank has no address for the others ({}); give "
      "--group-listen an address of this machine that they reach",
      address.ok() ? fmt::format("{} is loopback", *address) : MessageOf(address.status()));
}

}  // namespace choir
