#include "router/audit/audit_keys.h"

#include <fcntl.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/openssl_owned.h"
#include "common/base/sha256.h"
#include "common/config/file_watch.h"
#include "common/files/write_file.h"

namespace choir {
namespace {

constexpr int kNonceBytes = 12;
constexpr int kTagBytes = 16;

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

std::string Base64(std::string_view text) {
  std::string out((text.size() + 2) / 3 * 4 + 1, '\0');
  const int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), Bytes(text),
                                static_cast<int>(text.size()));
  out.resize(static_cast<size_t>(n));
  return out;
}

StatusOr<std::string> FromBase64(const std::string& text) {
  std::string out(text.size() / 4 * 3 + 1, '\0');
  const int n = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), Bytes(text),
                                static_cast<int>(text.size()));
  if (n < 0 || text.size() % 4 != 0) return InvalidArgument("it is not base64");
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  out.resize(static_cast<size_t>(n) - padding);
  return out;
}

std::string PublicPem(EVP_PKEY* key) {
  const Owned<BIO> bio = EmptyBio();
  CHOIR_CHECK(PEM_write_bio_PUBKEY(bio.get(), key) == 1);
  return TextOf(bio.get());
}

std::string Fingerprint(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int n = i2d_PUBKEY(key, &der);
  CHOIR_CHECK(n > 0);
  const std::string text(reinterpret_cast<char*>(der), static_cast<size_t>(n));
  OPENSSL_free(der);
  return ToHex(Sha256Of(text));
}

// Made whole and durable, or not at all. Of several processes one makes it, all go on with that
// one.
Status WriteSecret(const std::string& path, std::string_view text) {
  std::string part = path + ".XXXXXX";
  const int fd = mkostemp(part.data(), O_CLOEXEC);
  if (fd < 0) return FailedPrecondition("{}: cannot be made: {}", path, std::strerror(errno));
  const bool good = WriteAll(fd, text) && fsync(fd) == 0 &&
                    (link(part.c_str(), path.c_str()) == 0 || errno == EEXIST);
  const int error = errno;
  close(fd);
  unlink(part.c_str());
  if (good) return absl::OkStatus();
  return FailedPrecondition("{}: cannot be written: {}", path, std::strerror(error));
}

Status MakeSecretDir(const std::string& dir) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(dir).parent_path(), ignored);
  if (mkdir(dir.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return FailedPrecondition("{}: cannot be made: {}", dir, std::strerror(errno));
}

Owned<EVP_PKEY> NewEd25519() {
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  CHOIR_CHECK(key != nullptr);
  return Owned<EVP_PKEY>(key);
}

}  // namespace

struct AuditSigner::Key {
  Owned<EVP_PKEY> pkey;
};
AuditSigner::AuditSigner() : key_(std::make_unique<Key>()) {}
AuditSigner::AuditSigner(AuditSigner&&) noexcept = default;
AuditSigner& AuditSigner::operator=(AuditSigner&&) noexcept = default;
AuditSigner::~AuditSigner() = default;

StatusOr<AuditSigner> AuditSigner::Open(const std::string& dir, bool may_create) {
  CHOIR_RETURN_IF_ERROR(MakeSecretDir(dir));
  const std::string path = dir + "/signing.pem";
  AuditSigner signer;
  if (access(path.c_str(), F_OK) != 0 && may_create) {
    signer.key_->pkey = NewEd25519();
    const Owned<BIO> bio = EmptyBio();
    CHOIR_CHECK(PEM_write_bio_PrivateKey(bio.get(), signer.key_->pkey.get(), nullptr, nullptr, 0,
                                         nullptr, nullptr) == 1);
    CHOIR_RETURN_IF_ERROR(WriteSecret(path, TextOf(bio.get())));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string pem, ReadSmallFile(path));
  const Owned<BIO> bio = BioOf(pem);
  signer.key_->pkey.reset(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (!signer.key_->pkey || EVP_PKEY_get_id(signer.key_->pkey.get()) != EVP_PKEY_ED25519) {
    return InvalidArgument("{}: is not an Ed25519 private key in PEM form", path);
  }
  signer.public_pem_ = PublicPem(signer.key_->pkey.get());
  signer.fingerprint_ = Fingerprint(signer.key_->pkey.get());
  return signer;
}

std::string AuditSigner::Sign(std::string_view text) const {
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  unsigned char signature[64];
  size_t size = sizeof signature;
  CHOIR_CHECK(EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_->pkey.get()) == 1);
  CHOIR_CHECK(EVP_DigestSign(context.get(), signature, &size, Bytes(text), text.size()) == 1);
  return Base64({reinterpret_cast<char*>(signature), size});
}

struct AuditVerifier::Key {
  Owned<EVP_PKEY> pkey;
};
AuditVerifier::AuditVerifier() : key_(std::make_unique<Key>()) {}
AuditVerifier::AuditVerifier(AuditVerifier&&) noexcept = default;
AuditVerifier& AuditVerifier::operator=(AuditVerifier&&) noexcept = default;
AuditVerifier::~AuditVerifier() = default;

StatusOr<AuditVerifier> AuditVerifier::FromPem(const std::string& pem, const std::string& name) {
  AuditVerifier verifier;
  const Owned<BIO> bio = BioOf(pem);
  verifier.key_->pkey.reset(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  if (!verifier.key_->pkey || EVP_PKEY_get_id(verifier.key_->pkey.get()) != EVP_PKEY_ED25519) {
    return InvalidArgument("{}: is not an Ed25519 public key in PEM form", name);
  }
  verifier.fingerprint_ = Fingerprint(verifier.key_->pkey.get());
  return verifier;
}

bool AuditVerifier::Verify(std::string_view text, const std::string& signature_base64) const {
  const StatusOr<std::string> signature = FromBase64(signature_base64);
  if (!signature.ok()) return false;
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  return EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key_->pkey.get()) == 1 &&
         EVP_DigestVerify(context.get(), Bytes(*signature), signature->size(), Bytes(text),
                          text.size()) == 1;
}

std::string KeyedDigest(const TenantKey& key, std::string_view text) {
  Sha256Digest digest{};
  unsigned int size = 0;
  CHOIR_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), Bytes(text), text.size(),
                   digest.data(), &size) != nullptr);
  return ToHex(digest);
}

std::string SealContent(const TenantKey& key, std::string_view context, std::string_view text) {
  std::string out(kNonceBytes + text.size() + kTagBytes, '\0');
  auto* const bytes = reinterpret_cast<unsigned char*>(out.data());
  CHOIR_CHECK(RAND_bytes(bytes, kNonceBytes) == 1);
  const Owned<EVP_CIPHER_CTX> cipher(EVP_CIPHER_CTX_new());
  int n = 0;
  CHOIR_CHECK(EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, key.data(), bytes) == 1);
  CHOIR_CHECK(EVP_EncryptUpdate(cipher.get(), nullptr, &n, Bytes(context),
                                static_cast<int>(context.size())) == 1);
  CHOIR_CHECK(EVP_EncryptUpdate(cipher.get(), bytes + kNonceBytes, &n, Bytes(text),
                                static_cast<int>(text.size())) == 1);
  CHOIR_CHECK(EVP_EncryptFinal_ex(cipher.get(), bytes + kNonceBytes + n, &n) == 1);
  CHOIR_CHECK(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes,
                                  bytes + kNonceBytes + text.size()) == 1);
  return Base64(out);
}

StatusOr<std::string> OpenContent(const TenantKey& key, std::string_view context,
                                  const std::string& sealed) {
  CHOIR_ASSIGN_OR_RETURN(std::string in, FromBase64(sealed));
  if (in.size() < kNonceBytes + kTagBytes) return InvalidArgument("sealed content is too short");
  auto* const bytes = reinterpret_cast<unsigned char*>(in.data());
  const size_t size = in.size() - kNonceBytes - kTagBytes;
  std::string out(size, '\0');
  const Owned<EVP_CIPHER_CTX> cipher(EVP_CIPHER_CTX_new());
  int n = 0;
  const bool good =
      EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, key.data(), bytes) == 1 &&
      EVP_DecryptUpdate(cipher.get(), nullptr, &n, Bytes(context),
                        static_cast<int>(context.size())) == 1 &&
      EVP_DecryptUpdate(cipher.get(), reinterpret_cast<unsigned char*>(out.data()), &n,
                        bytes + kNonceBytes, static_cast<int>(size)) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes,
                          bytes + kNonceBytes + size) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), reinterpret_cast<unsigned char*>(out.data()) + n, &n) == 1;
  if (!good) return InvalidArgument("sealed content does not open: other key, or changed");
  return out;
}

std::string TenantKeys::PathOf(const std::string& tenant) const {
  return dir_ + "/tenant-" + tenant + ".key";  // tenant names have no slash (CheckTenantName)
}

StatusOr<TenantKey> TenantKeys::Find(const std::string& tenant) const {
  const std::string path = PathOf(tenant);
  if (access(path.c_str(), F_OK) != 0) return NotFound("{}: there is no such key", path);
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  TenantKey key{};
  if (text.size() != key.size()) return InvalidArgument("{}: must have 32 bytes", path);
  std::memcpy(key.data(), text.data(), key.size());
  return key;
}

StatusOr<TenantKey> TenantKeys::Get(const std::string& tenant) {
  // Another process may have destroyed the file meanwhile.
  const bool exists = access(PathOf(tenant).c_str(), F_OK) == 0;
  const auto known = known_.find(tenant);
  if (known != known_.end() && exists) return known->second;
  StatusOr<TenantKey> key = Find(tenant);
  if (absl::IsNotFound(key.status())) {
    CHOIR_RETURN_IF_ERROR(MakeSecretDir(dir_));
    TenantKey made{};
    CHOIR_CHECK(RAND_bytes(made.data(), static_cast<int>(made.size())) == 1);
    CHOIR_RETURN_IF_ERROR(
        WriteSecret(PathOf(tenant), {reinterpret_cast<const char*>(made.data()), made.size()}));
    key = Find(tenant);
  }
  CHOIR_RETURN_IF_ERROR(key.status());
  known_[tenant] = *key;
  return key;
}

Status TenantKeys::Destroy(const std::string& tenant) {
  const std::string path = PathOf(tenant);
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return NotFound("{}: there is no such key", path);
  const TenantKey zeros{};
  const bool wiped =
      write(fd, zeros.data(), zeros.size()) == static_cast<ssize_t>(zeros.size()) && fsync(fd) == 0;
  close(fd);
  known_.erase(tenant);
  if (!wiped || unlink(path.c_str()) != 0) return FailedPrecondition("{}: cannot be removed", path);
  return absl::OkStatus();
}

}  // namespace choir
