#include "router/identity/jwks.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/log.h"
#include "common/base/openssl_owned.h"
#include "common/files/json_file.h"
#include "router/identity/base64url.h"

namespace choir {
namespace {

using nlohmann::json;

constexpr size_t kKeysMax = 1000;
constexpr size_t kKidMax = 256;
constexpr int kRsaBitsMin = 2048, kRsaBitsMax = 8192;
constexpr int kExponentBitsMin = 17, kExponentBitsMax = 64;  // 65537 and up, as FIPS 186 asks for
constexpr size_t kP256Bytes = 32;
constexpr size_t kEd25519Bytes = 32;
constexpr JsonLimits kJsonLimits = {.bytes_max = 1 << 20, .values_max = 100'000};

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// "" when there is no such text.
std::string TextOf(const json& key, const char* name) {
  const auto it = key.find(name);
  return it != key.end() && it->is_string() ? it->get<std::string>() : std::string();
}

StatusOr<std::string> BytesOf(const json& key, const char* name) {
  auto bytes = FromBase64Url(TextOf(key, name));
  if (!bytes || bytes->empty()) return InvalidArgument("{}: base64url is needed", name);
  return *std::move(bytes);
}

Owned<BIGNUM> NumberOf(const std::string& bytes) {
  return Owned<BIGNUM>(BN_bin2bn(Bytes(bytes), static_cast<int>(bytes.size()), nullptr));
}

Owned<EVP_PKEY> Build(const char* type, OSSL_PARAM_BLD* builder) {
  const Owned<OSSL_PARAM> params(OSSL_PARAM_BLD_to_param(builder));
  const Owned<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* key = nullptr;
  if (!params || !context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    return nullptr;
  }
  return Owned<EVP_PKEY>(key);
}

StatusOr<Owned<EVP_PKEY>> RsaKey(const json& jwk) {
  CHOIR_ASSIGN_OR_RETURN(const std::string n_bytes, BytesOf(jwk, "n"));
  CHOIR_ASSIGN_OR_RETURN(const std::string e_bytes, BytesOf(jwk, "e"));
  const Owned<BIGNUM> n = NumberOf(n_bytes), e = NumberOf(e_bytes);
  const int bits = BN_num_bits(n.get());
  if (bits < kRsaBitsMin || bits > kRsaBitsMax) {
    return InvalidArgument("RSA of {} bits; {} to {} are good", bits, kRsaBitsMin, kRsaBitsMax);
  }
  const int exponent_bits = BN_num_bits(e.get());
  if (BN_is_odd(e.get()) == 0 || exponent_bits < kExponentBitsMin ||
      exponent_bits > kExponentBitsMax) {
    return InvalidArgument("RSA with a weak exponent; 65537 is usual");
  }
  const Owned<OSSL_PARAM_BLD> builder(OSSL_PARAM_BLD_new());
  OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get());
  OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get());
  return Build("RSA", builder.get());
}

StatusOr<Owned<EVP_PKEY>> P256Key(const json& jwk) {
  CHOIR_ASSIGN_OR_RETURN(const std::string x, BytesOf(jwk, "x"));
  CHOIR_ASSIGN_OR_RETURN(const std::string y, BytesOf(jwk, "y"));
  if (x.size() != kP256Bytes || y.size() != kP256Bytes) {
    return InvalidArgument("x and y of P-256 have {} bytes each", kP256Bytes);
  }
  const std::string point = '\x04' + x + y;
  const Owned<OSSL_PARAM_BLD> builder(OSSL_PARAM_BLD_new());
  OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0);
  OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(),
                                   point.size());
  return Build("EC", builder.get());
}

StatusOr<Owned<EVP_PKEY>> Ed25519Key(const json& jwk) {
  CHOIR_ASSIGN_OR_RETURN(const std::string x, BytesOf(jwk, "x"));
  if (x.size() != kEd25519Bytes) return InvalidArgument("x of Ed25519 has {} bytes", kEd25519Bytes);
  return Owned<EVP_PKEY>(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, Bytes(x), x.size()));
}

// r and s, as a token has them, in the form that OpenSSL takes. Empty: they are none.
std::string DerOf(std::string_view signature) {
  if (signature.size() != 2 * kP256Bytes) return "";
  const Owned<ECDSA_SIG> both(ECDSA_SIG_new());
  BIGNUM* r = BN_bin2bn(Bytes(signature), kP256Bytes, nullptr);
  BIGNUM* s = BN_bin2bn(Bytes(signature) + kP256Bytes, kP256Bytes, nullptr);
  ECDSA_SIG_set0(both.get(), r, s);  // owns them
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(both.get(), &der);
  if (size <= 0) return "";
  std::string out(reinterpret_cast<const char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  return out;
}

bool IsForSignatures(const json& jwk) {
  const std::string use = TextOf(jwk, "use");
  if (!use.empty() && use != "sig") return false;
  const auto ops = jwk.find("key_ops");
  if (ops == jwk.end()) return true;
  return ops->is_array() && std::find(ops->begin(), ops->end(), json("verify")) != ops->end();
}

}  // namespace

class JwkSet::Key {
 public:
  std::string kid;
  std::string algorithm;
  Owned<EVP_PKEY> pkey;
};

namespace {

// An error says why the key is of no use to us.
StatusOr<std::unique_ptr<const JwkSet::Key>> ReadKey(const json& jwk) {
  if (!IsForSignatures(jwk)) return InvalidArgument("it is not for signatures");
  auto key = std::make_unique<JwkSet::Key>();
  key->kid = TextOf(jwk, "kid");
  if (key->kid.size() > kKidMax) return InvalidArgument("kid: at most {} bytes are good", kKidMax);
  const std::string type = TextOf(jwk, "kty"), curve = TextOf(jwk, "crv");
  StatusOr<Owned<EVP_PKEY>> made = InvalidArgument("kind '{} {}' is not used", type, curve);
  if (type == "RSA") {
    key->algorithm = "RS256";
    made = RsaKey(jwk);
  } else if (type == "EC" && curve == "P-256") {
    key->algorithm = "ES256";
    made = P256Key(jwk);
  } else if (type == "OKP" && curve == "Ed25519") {
    key->algorithm = "EdDSA";
    made = Ed25519Key(jwk);
  }
  CHOIR_RETURN_IF_ERROR(made.status());
  ERR_clear_error();
  if (*made == nullptr) return InvalidArgument("it is no {} key", type);
  const std::string algorithm = TextOf(jwk, "alg");
  if (!algorithm.empty() && algorithm != key->algorithm) {
    return InvalidArgument("algorithm '{}' is not used", algorithm);
  }
  key->pkey = *std::move(made);
  return key;
}

}  // namespace

JwkSet::JwkSet() = default;
JwkSet::~JwkSet() = default;

StatusOr<std::shared_ptr<const JwkSet>> JwkSet::Parse(const std::string& text,
                                                      const std::string& name) {
  CHOIR_ASSIGN_OR_RETURN(const json root, ParseJson(text, name, kJsonLimits));
  if (!root.is_object() || !root.contains("keys") || !root["keys"].is_array()) {
    return InvalidArgument("{}: an object with a list 'keys' is needed", name);
  }
  if (root["keys"].size() > kKeysMax)
    return InvalidArgument("{}: more than {} keys", name, kKeysMax);
  std::shared_ptr<JwkSet> set(new JwkSet);
  for (size_t i = 0; i < root["keys"].size(); ++i) {
    const json& jwk = root["keys"][i];
    if (!jwk.is_object()) return InvalidArgument("{}: keys[{}]: an object is needed", name, i);
    if (jwk.contains("d") || jwk.contains("k")) {
      return InvalidArgument(
          "{}: keys[{}]: a private or symmetric key; only public ones belong here", name, i);
    }
    auto key = ReadKey(jwk);
    if (!key.ok()) {
      CHOIR_LOG(warn, "{}: keys[{}] is skipped: {}", name, i, MessageOf(key.status()));
      continue;
    }
    for (const auto& other : set->keys_) {
      if (other->kid == (*key)->kid && other->algorithm == (*key)->algorithm) {
        return InvalidArgument("{}: keys[{}]: kid '{}' is there twice", name, i, other->kid);
      }
    }
    set->keys_.push_back(*std::move(key));
  }
  if (set->keys_.empty()) {
    return InvalidArgument("{}: holds no RSA, P-256 or Ed25519 key for signatures", name);
  }
  return set;
}

const JwkSet::Key* JwkSet::Find(std::string_view algorithm,
                                const std::optional<std::string>& kid) const {
  const Key* found = nullptr;
  for (const auto& key : keys_) {
    if (key->algorithm != algorithm || (kid && key->kid != *kid)) continue;
    if (found != nullptr) return nullptr;  // without a name it is not clear which
    found = key.get();
  }
  return found;
}

bool JwkSet::Verify(const Key& key, std::string_view text, std::string_view signature) {
  const std::string der = key.algorithm == "ES256" ? DerOf(signature) : std::string(signature);
  const EVP_MD* const digest = key.algorithm == "EdDSA" ? nullptr : EVP_sha256();
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  const bool good =
      !der.empty() && context &&
      EVP_DigestVerifyInit(context.get(), nullptr, digest, nullptr, key.pkey.get()) == 1 &&
      EVP_DigestVerify(context.get(), Bytes(der), der.size(), Bytes(text), text.size()) == 1;
  ERR_clear_error();
  return good;
}

const std::string& JwkSet::Name(const Key& key) { return key.kid; }

}  // namespace choir
