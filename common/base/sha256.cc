#include "common/base/sha256.h"

#include <openssl/evp.h>

#include "common/base/check.h"

namespace choir {
namespace {

// EVP_sha256() is looked up in the library's provider at each use.
const EVP_MD* Algorithm() {
  static EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  CHOIR_CHECK(algorithm != nullptr);
  return algorithm;
}

}  // namespace

struct Sha256::Impl {
  EVP_MD_CTX* ctx = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(ctx); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  CHOIR_CHECK(EVP_DigestInit_ex(impl_->ctx, Algorithm(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  CHOIR_CHECK(EVP_DigestUpdate(impl_->ctx, bytes.data(), bytes.size()) == 1);
}
void Sha256::Update(std::string_view text) {
  CHOIR_CHECK(EVP_DigestUpdate(impl_->ctx, text.data(), text.size()) == 1);
}

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  CHOIR_CHECK(EVP_DigestFinal_ex(impl_->ctx, digest.data(), nullptr) == 1);
  return digest;
}

Sha256Digest Sha256Of(std::string_view text) {
  Sha256 hash;
  hash.Update(text);
  return hash.Finish();
}

std::string ToHex(std::span<const uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const uint8_t b : bytes) {
    out.push_back(kDigits[b >> 4]);
    out.push_back(kDigits[b & 15]);
  }
  return out;
}

}  // namespace choir
