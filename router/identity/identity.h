// Who is asking: the keys, tokens and certificates in force right now. Follows the keys file and
// the JWK set within half a second; a file that cannot be read or parsed leaves what was read
// before in force. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "common/config/file_watch.h"
#include "common/tls/certificate.h"
#include "router/identity/certificate_rules.h"
#include "router/identity/jwt.h"
#include "router/identity/keys.h"
#include "router/identity/principal.h"
#include "router/identity/token_cache.h"

namespace choir {

struct IdentityOptions {
  std::string keys_file;
  JwtOptions jwt;
  std::vector<CertificateRule> certificates;
};

class Identity {
 public:
  // Hears of each later reading of a file, from the thread that watches it.
  using OnReload = std::function<void(const std::string& file, const Status& status)>;

  // Fails when a file cannot be read at start. `on_reload` may be empty.
  static StatusOr<std::unique_ptr<Identity>> Open(IdentityOptions options, OnReload on_reload,
                                                  const Clock* clock = &Clock::Real());
  // Fixed keys, for tests.
  explicit Identity(std::vector<KeyRecord> keys, const Clock* clock = &Clock::Real());

  // nullopt: nobody whom we know, or the key is revoked, or what is shown is not valid now.
  // `bearer` is the key or token itself, without "Bearer ". Where there is none, the certificate
  // says who it is: by a rule, or in our own trust domain as "tenant/NAME".
  std::optional<Principal> Authenticate(std::string_view bearer,
                                        const PeerCertificate& certificate = {}) const;

  // Whether there are prices, by which budgets are counted; it is so until it is said. While there
  // are none, keys in force that have one are warned of in the log: now, and as the file is read.
  void SetPrices(bool given);

  size_t cached_tokens() const;

 private:
  // A JWK set and the tokens that it verified: another set, no tokens.
  struct Tokens {
    std::shared_ptr<const JwkSet> keys;
    TokenCache cache;
  };

  Identity() = default;
  Status Watch(const std::string& path, Status (Identity::*take)(const std::string&),
               OnReload on_reload);
  void WarnOfBudgets() const;  // mu_ is held
  Status TakeKeys(const std::string& text);
  Status TakeJwks(const std::string& text);
  std::optional<Principal> ByToken(std::string_view token) const;
  std::optional<Principal> ByKey(std::string_view key) const;
  std::optional<Principal> ByCertificate(const PeerCertificate& certificate) const;

  IdentityOptions options_;
  const Clock* clock_ = nullptr;
  mutable std::mutex mu_;  // guards the next three
  bool prices_given_ = true;
  std::shared_ptr<const KeySet> keys_;
  std::shared_ptr<Tokens> tokens_;                   // null: no tokens are taken
  std::vector<std::unique_ptr<FileWatch>> watches_;  // last: stop before what they fill goes
};

}  // namespace choir
