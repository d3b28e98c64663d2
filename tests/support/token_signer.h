// An identity provider for tests: makes a key, publishes it as a JWK, signs tokens. Header only;
// one thread.
#pragma once

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/openssl_owned.h"
#include "router/identity/base64url.h"

namespace choir {

class TokenSigner {
 public:
  using Json = nlohmann::ordered_json;

  static TokenSigner Rsa(unsigned bits = 2048) {
    return {"RS256", EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", static_cast<size_t>(bits))};
  }
  static TokenSigner Ec(const char* curve = "P-256") {
    return {"ES256", EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", curve)};
  }
  static TokenSigner Ed() { return {"EdDSA", EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")}; }

  const std::string& algorithm() const { return algorithm_; }

  // The public key with that name.
  Json Jwk(const std::string& kid) const {
    Json jwk = {{"kid", kid}, {"use", "sig"}};
    if (algorithm_ == "RS256") {
      jwk.update({{"kty", "RSA"},
                  {"n", Number(OSSL_PKEY_PARAM_RSA_N)},
                  {"e", Number(OSSL_PKEY_PARAM_RSA_E)}});
    } else if (algorithm_ == "ES256") {
      jwk.update({{"kty", "EC"},
                  {"crv", "P-256"},
                  {"x", Number(OSSL_PKEY_PARAM_EC_PUB_X, 32)},
                  {"y", Number(OSSL_PKEY_PARAM_EC_PUB_Y, 32)}});
    } else {
      std::vector<uint8_t> raw(32);
      size_t size = raw.size();
      CHOIR_CHECK(EVP_PKEY_get_raw_public_key(key_.get(), raw.data(), &size) == 1);
      jwk.update({{"kty", "OKP"}, {"crv", "Ed25519"}, {"x", ToBase64Url(raw)}});
    }
    return jwk;
  }

  std::string Token(const Json& claims, const std::string& kid) const {
    return Sign({{"alg", algorithm_}, {"kid", kid}, {"typ", "JWT"}}, claims.dump());
  }
  std::string Sign(const Json& header, const std::string& claims) const {
    const std::string text = Part(header.dump()) + "." + Part(claims);
    return text + "." + Part(Signature(text));
  }
  // As a token has it.
  std::string Signature(const std::string& text) const {
    const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
    const EVP_MD* const digest = algorithm_ == "EdDSA" ? nullptr : EVP_sha256();
    const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
    size_t size = 0;
    CHOIR_CHECK(EVP_DigestSignInit(context.get(), nullptr, digest, nullptr, key_.get()) == 1);
    CHOIR_CHECK(EVP_DigestSign(context.get(), nullptr, &size, bytes, text.size()) == 1);
    std::vector<uint8_t> out(size);
    CHOIR_CHECK(EVP_DigestSign(context.get(), out.data(), &size, bytes, text.size()) == 1);
    out.resize(size);
    if (algorithm_ == "ES256") out = RawOf(out);
    return {out.begin(), out.end()};
  }
  static std::string Part(const std::string& text) {
    return ToBase64Url({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

 private:
  TokenSigner(std::string algorithm, EVP_PKEY* key) : algorithm_(std::move(algorithm)), key_(key) {
    CHOIR_CHECK(key != nullptr);
  }
  static std::vector<uint8_t> RawOf(const std::vector<uint8_t>& der) {
    const unsigned char* at = der.data();
    const Owned<ECDSA_SIG> both(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size())));
    std::vector<uint8_t> raw(64);
    BN_bn2binpad(ECDSA_SIG_get0_r(both.get()), raw.data(), 32);
    BN_bn2binpad(ECDSA_SIG_get0_s(both.get()), raw.data() + 32, 32);
    return raw;
  }
  std::string Number(const char* name, int size = 0) const {
    BIGNUM* number = nullptr;
    CHOIR_CHECK(EVP_PKEY_get_bn_param(key_.get(), name, &number) == 1);
    const Owned<BIGNUM> owned(number);
    std::vector<uint8_t> bytes(static_cast<size_t>(size > 0 ? size : BN_num_bytes(number)));
    BN_bn2binpad(number, bytes.data(), static_cast<int>(bytes.size()));
    return ToBase64Url(bytes);
  }

  std::string algorithm_;
  Owned<EVP_PKEY> key_;
};

}  // namespace choir
