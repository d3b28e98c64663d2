// The secrets of an audit log, in a directory of their own (0700, never under the log): the Ed25519
// key that signs checkpoints, and one key a tenant for digests and captured content. Destroying a
// tenant's key makes both meaningless for ever (erasure). One thread; errors name the file.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

class AuditSigner {
 public:
  // Reads DIR/signing.pem, or makes it (0600) when `may_create`.
  static StatusOr<AuditSigner> Open(const std::string& dir, bool may_create);
  AuditSigner(AuditSigner&&) noexcept;
  AuditSigner& operator=(AuditSigner&&) noexcept;
  ~AuditSigner();

  std::string Sign(std::string_view text) const;  // base64
  const std::string& public_pem() const { return public_pem_; }
  const std::string& fingerprint() const { return fingerprint_; }  // SHA-256 of the DER, hex

 private:
  struct Key;
  AuditSigner();
  std::unique_ptr<Key> key_;
  std::string public_pem_, fingerprint_;
};

// A public key that came from outside.
class AuditVerifier {
 public:
  static StatusOr<AuditVerifier> FromPem(const std::string& pem, const std::string& name);
  AuditVerifier(AuditVerifier&&) noexcept;
  AuditVerifier& operator=(AuditVerifier&&) noexcept;
  ~AuditVerifier();
  bool Verify(std::string_view text, const std::string& signature_base64) const;
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  struct Key;
  AuditVerifier();
  std::unique_ptr<Key> key_;
  std::string fingerprint_;
};

using TenantKey = std::array<unsigned char, 32>;

// HMAC-SHA-256, hex.
std::string KeyedDigest(const TenantKey& key, std::string_view text);
// AES-256-GCM with a random nonce; base64 of nonce, ciphertext and tag. `context` is authenticated.
std::string SealContent(const TenantKey& key, std::string_view context, std::string_view text);
StatusOr<std::string> OpenContent(const TenantKey& key, std::string_view context,
                                  const std::string& sealed);

class TenantKeys {
 public:
  explicit TenantKeys(std::string dir) : dir_(std::move(dir)) {}
  // Makes the tenant's key at its first request.
  StatusOr<TenantKey> Get(const std::string& tenant);
  // NotFound when there is none (any more).
  StatusOr<TenantKey> Find(const std::string& tenant) const;
  // Overwrites and removes it.
  Status Destroy(const std::string& tenant);

 private:
  std::string PathOf(const std::string& tenant) const;
  const std::string dir_;
  std::map<std::string, TenantKey> known_;
};

}  // namespace choir
