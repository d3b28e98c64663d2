// A private authority in a directory of its own, for tests. Header only; one thread.
#pragma once

#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/tls/tls_options.h"
#include "tools/tls/issue.h"

namespace choir {

inline int64_t UnixNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

class TestAuthority {
 public:
  static constexpr int64_t kDay = 86400;

  TestAuthority() {
    char path[] = "/tmp/choir-tls-XXXXXX";
    CHOIR_CHECK(mkdtemp(path) != nullptr);
    dir_ = path;
    authority_ = Value(MakeAuthority({.common_name = "test authority",
                                      .not_before = UnixNow() - kDay,
                                      .not_after = UnixNow() + kDay}));
    Write("ca.pem", authority_.cert_pem);
  }
  ~TestAuthority() { std::filesystem::remove_all(dir_); }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  std::string Path(const std::string& name) const { return dir_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const {
    // Replaced like an operator does it: by renaming.
    std::ofstream(Path(name) + ".part") << text;
    std::filesystem::permissions(Path(name) + ".part", std::filesystem::perms(0600));
    std::filesystem::rename(Path(name) + ".part", Path(name));
  }

  // From `from` to `to`, in seconds from now.
  KeyAndCertificate Issue(const std::string& identity, int64_t from = -kDay, int64_t to = kDay,
                          std::vector<std::string> more_uris = {}) const {
    more_uris.insert(more_uris.begin(), "spiffe://choir/" + identity);
    return Value(IssueCertificate(authority_, {.common_name = identity,
                                               .uris = std::move(more_uris),
                                               .hosts = {"localhost", "127.0.0.1"},
                                               .not_before = UnixNow() + from,
                                               .not_after = UnixNow() + to}));
  }
  // Of a server that is known by its host.
  KeyAndCertificate IssueHost(const std::string& host) const {
    return Value(IssueCertificate(authority_, {.common_name = "server",
                                               .hosts = {host},
                                               .not_before = UnixNow() - kDay,
                                               .not_after = UnixNow() + kDay}));
  }
  // Writes NAME.pem and NAME-key.pem and names them and the authority.
  TlsOptions Place(const std::string& name, const KeyAndCertificate& pair) const {
    Write(name + "-key.pem", pair.key_pem);
    Write(name + ".pem", pair.cert_pem);
    TlsOptions options;
    options.cert = Path(name + ".pem");
    options.key = Path(name + "-key.pem");
    options.ca = Path("ca.pem");
    return options;
  }
  TlsOptions Place(const std::string& role) const { return Place(role, Issue(role)); }

  const std::string& cert_pem() const { return authority_.cert_pem; }

 private:
  template <typename T>
  static T Value(StatusOr<T> made) {
    CHOIR_CHECK(made.ok());
    return *std::move(made);
  }

  std::string dir_;
  KeyAndCertificate authority_;
};

}  // namespace choir
