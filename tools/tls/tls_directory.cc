#include <arpa/inet.h>
#include <ifaddrs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "common/base/clock.h"
#include "common/config/file_watch.h"
#include "common/files/write_file.h"
#include "common/tls/tls_options.h"
#include "tools/tls/issue.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDay = 86400;
constexpr int64_t kAuthorityDays = 3650;
constexpr int64_t kClockSkew = 3600;  // machines whose clocks are behind accept it, too

Status WritePair(const std::string& stem, const KeyAndCertificate& pair) {
  CHOIR_RETURN_IF_ERROR(WriteFileWhole(stem + "-key.pem", pair.key_pem));
  return WriteFileWhole(stem + ".pem", pair.cert_pem, {.mode = 0644});
}

int64_t UnixNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(Clock::Real().Wall().time_since_epoch())
      .count();
}

StatusOr<KeyAndCertificate> AuthorityOf(const TlsDirectory& d) {
  const std::string stem = d.dir + "/ca";
  KeyAndCertificate authority;
  if (fs::exists(stem + ".pem") || fs::exists(stem + "-key.pem")) {
    CHOIR_ASSIGN_OR_RETURN(authority.cert_pem, ReadSmallFile(stem + ".pem"));
    CHOIR_ASSIGN_OR_RETURN(authority.key_pem, ReadSmallFile(stem + "-key.pem"));
    return authority;
  }
  CHOIR_ASSIGN_OR_RETURN(authority,
                         MakeAuthority({.common_name = "choir authority",
                                        .not_before = UnixNow() - kClockSkew,
                                        .not_after = UnixNow() + kAuthorityDays * kDay}));
  CHOIR_RETURN_IF_ERROR(WritePair(stem, authority));
  return authority;
}

}  // namespace

Status FillTlsDirectory(const TlsDirectory& d) {
  std::error_code error;
  fs::create_directories(d.dir, error);
  if (error) return FailedPrecondition("{}: cannot be made: {}", d.dir, error.message());
  CHOIR_ASSIGN_OR_RETURN(const KeyAndCertificate authority, AuthorityOf(d));
  const auto issue = [&](const std::string& name, const std::string& identity,
                         const std::vector<std::string>& hosts) -> Status {
    const CertificateRequest request = {.common_name = "choir " + name,
                                        .uris = {"spiffe://" + d.trust_domain + "/" + identity},
                                        .hosts = hosts,
                                        .not_before = UnixNow() - kClockSkew,
                                        .not_after = UnixNow() + d.days * kDay};
    auto made = IssueCertificate(authority, request);
    if (!made.ok()) return Annotate(made.status(), d.dir + "/" + name + ".pem");
    return WritePair(d.dir + "/" + name, *made);
  };
  for (const char* role : {kGatewayRole, kRouterRole}) {
    CHOIR_RETURN_IF_ERROR(issue(role, role, d.hosts));
  }
  CHOIR_RETURN_IF_ERROR(issue(kWorkerRole, kWorkerRole, {}));
  for (const std::string& tenant : d.tenants) {
    CHOIR_RETURN_IF_ERROR(issue("tenant-" + tenant, "tenant/" + tenant, {}));
  }
  return absl::OkStatus();
}

void AddOwnHosts(const std::string& listen, std::vector<std::string>* hosts) {
  const auto add = [hosts](std::string host) {
    const bool known = std::find(hosts->begin(), hosts->end(), host) != hosts->end();
    if (!host.empty() && !known) hosts->push_back(std::move(host));
  };
  add("localhost");
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) == 0) add(name);
  std::string host = listen.substr(0, listen.rfind(':'));
  std::erase_if(host, [](char c) { return c == '[' || c == ']'; });
  add(host);
  ifaddrs* interfaces = nullptr;
  if (getifaddrs(&interfaces) != 0) return;
  for (const ifaddrs* i = interfaces; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN] = {};
    const void* address = nullptr;
    if (i->ifa_addr->sa_family == AF_INET) {
      address = &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr;
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      address = &reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr;
    }
    if (address != nullptr && inet_ntop(i->ifa_addr->sa_family, address, text, sizeof text)) {
      add(text);
    }
  }
  freeifaddrs(interfaces);
}

}  // namespace choir
