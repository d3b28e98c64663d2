#include "router/identity/identity.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"

namespace choir {
namespace {

constexpr auto kLookAtFiles = std::chrono::milliseconds(250);

// What a stranger sent must not look like a line of our log.
std::string Printable(std::string text) {
  constexpr size_t kBytesMax = 256;
  text.resize(std::min(text.size(), kBytesMax));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return text;
}

}  // namespace

StatusOr<std::unique_ptr<Identity>> Identity::Open(IdentityOptions options, OnReload on_reload,
                                                   const Clock* clock) {
  std::unique_ptr<Identity> identity(new Identity);
  identity->options_ = std::move(options);
  identity->clock_ = clock;
  CHOIR_RETURN_IF_ERROR(CheckJwtOptions(identity->options_.jwt));
  CHOIR_RETURN_IF_ERROR(
      identity->Watch(identity->options_.keys_file, &Identity::TakeKeys, on_reload));
  const std::string& jwks = identity->options_.jwt.jwks;
  if (!jwks.empty()) CHOIR_RETURN_IF_ERROR(identity->Watch(jwks, &Identity::TakeJwks, on_reload));
  for (const auto& watch : identity->watches_) watch->Start(kLookAtFiles);
  return identity;
}

Identity::Identity(std::vector<KeyRecord> keys, const Clock* clock)
    : clock_(clock), keys_(std::make_shared<const KeySet>(std::move(keys))) {}

Status Identity::Watch(const std::string& path, Status (Identity::*take)(const std::string&),
                       OnReload on_reload) {
  auto watch = std::make_unique<FileWatch>(
      path, [this, take](const std::string& text) { return (this->*take)(text); });
  CHOIR_RETURN_IF_ERROR(watch->Poll());
  if (on_reload) {
    watch->OnResult([path, on_reload = std::move(on_reload)](const Status& status) {
      on_reload(path, status);
    });
  }
  watches_.push_back(std::move(watch));
  return absl::OkStatus();
}

Status Identity::TakeKeys(const std::string& text) {
  auto records = ParseKeys(text, options_.keys_file);
  if (!records.ok()) return records.status();
  auto keys = std::make_shared<const KeySet>(*std::move(records));
  CHOIR_LOG(info, "{}: {} keys", options_.keys_file, keys->size());
  const std::lock_guard lock(mu_);
  keys_ = std::move(keys);
  WarnOfBudgets();
  return absl::OkStatus();
}

void Identity::SetPrices(bool given) {
  const std::lock_guard lock(mu_);
  if (given == prices_given_) return;
  prices_given_ = given;
  WarnOfBudgets();
}

void Identity::WarnOfBudgets() const {
  if (prices_given_) return;
  const std::string keys = KeysWithBudget(keys_->keys(), clock_->Wall());
  if (keys.empty()) return;
  CHOIR_LOG(warn, "{}: budgets of keys have no effect without router.limits.prices: {}",
            options_.keys_file, keys);
}

Status Identity::TakeJwks(const std::string& text) {
  const JwtOptions& jwt = options_.jwt;
  CHOIR_ASSIGN_OR_RETURN(auto keys, JwkSet::Parse(text, jwt.jwks));
  CHOIR_LOG(info, "{}: {} keys that tokens may be signed with", jwt.jwks, keys->size());
  auto tokens = std::shared_ptr<Tokens>(
      new Tokens{std::move(keys), TokenCache(static_cast<size_t>(jwt.cache_max), jwt.cache_time)});
  const std::lock_guard lock(mu_);
  tokens_ = std::move(tokens);
  return absl::OkStatus();
}

std::optional<Principal> Identity::Authenticate(std::string_view bearer,
                                                const PeerCertificate& certificate) const {
  if (bearer.empty()) return ByCertificate(certificate);
  return LooksLikeJwt(bearer) ? ByToken(bearer) : ByKey(bearer);
}

std::optional<Principal> Identity::ByKey(std::string_view bearer) const {
  std::shared_ptr<const KeySet> keys;
  {
    const std::lock_guard lock(mu_);
    keys = keys_;
  }
  const KeyRecord* key = keys->Find(bearer, clock_->Wall());
  if (key == nullptr) return std::nullopt;
  return Principal{.tenant = key->tenant,
                   .name = key->id,
                   .key_id = key->id,
                   .fingerprint = key->id,
                   .auth = kAuthApiKey,
                   .rights = std::shared_ptr<const Rights>(keys, &key->rights)};
}

std::optional<Principal> Identity::ByToken(std::string_view token) const {
  std::shared_ptr<Tokens> tokens;
  {
    const std::lock_guard lock(mu_);
    tokens = tokens_;
  }
  if (tokens == nullptr || token.size() > kTokenBytesMax) return std::nullopt;
  const WallTime now = clock_->Wall();
  const Sha256Digest digest = Sha256Of(token);
  if (const auto known = tokens->cache.Find(digest, now)) return *known;
  auto verified = VerifyJwt(token, *tokens->keys, options_.jwt, now);
  if (!verified.ok()) {
    CHOIR_LOG(debug, "a token was refused: {}", Printable(MessageOf(verified.status())));
    return std::nullopt;
  }
  auto principal = std::make_shared<const Principal>(
      Principal{.tenant = std::move(verified->tenant),
                .name = verified->subject,
                .key_id = "jwt:" + verified->subject,
                .fingerprint = std::move(verified->kid),
                .auth = kAuthJwt,
                .rights = std::make_shared<const Rights>(std::move(verified->rights))});
  tokens->cache.Put(digest, principal, now, verified->until);
  return *principal;
}

std::optional<Principal> Identity::ByCertificate(const PeerCertificate& certificate) const {
  if (const CertificateRule* rule = FindRule(options_.certificates, certificate)) {
    const std::string& name = rule->dns.empty() ? certificate.spiffe : rule->dns;
    return Principal{.tenant = rule->tenant,
                     .name = name,
                     .key_id = name,
                     .fingerprint = name,
                     .auth = kAuthMtls,
                     .rights = rule->rights};
  }
  const std::string prefix = std::string(kTenantRole) + "/";
  if (!certificate.identity.starts_with(prefix)) return std::nullopt;
  std::string tenant = certificate.identity.substr(prefix.size());
  if (!CheckTenantName(tenant).ok()) return std::nullopt;
  return Principal{.tenant = std::move(tenant),
                   .name = certificate.identity,
                   .key_id = certificate.identity,
                   .fingerprint = certificate.identity,
                   .auth = kAuthMtls};
}

size_t Identity::cached_tokens() const {
  const std::lock_guard lock(mu_);
  return tokens_ == nullptr ? 0 : tokens_->cache.size();
}

}  // namespace choir
