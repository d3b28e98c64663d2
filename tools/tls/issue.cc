#include "tools/tls/issue.h"

#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "common/base/openssl_owned.h"

namespace choir {
namespace {

constexpr int kSerialBits = 159;  // RFC 5280 4.1.2.2: positive and at most 20 bytes
constexpr size_t kCommonNameMax = 64;

Status AddExtension(X509* to, const X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, const_cast<X509*>(issuer), to, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  if (extension == nullptr) return InvalidArgument("'{}' cannot be put into a certificate", value);
  X509_add_ext(to, extension, -1);
  X509_EXTENSION_free(extension);
  return absl::OkStatus();
}

bool IsPlain(const std::string& text, const std::string& more) {
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!letter && more.find(c) == std::string::npos) return false;
  }
  return !text.empty() && text.size() <= 255;
}

StatusOr<std::string> AlternativeNames(const CertificateRequest& request) {
  std::string out;
  const auto add = [&out](const char* kind, const std::string& name) {
    out += (out.empty() ? "" : ",") + (kind + name);
  };
  for (const std::string& uri : request.uris) {
    // A comma or a line end would begin another name.
    if (!IsPlain(uri, ":/.-_")) return InvalidArgument("'{}' is no URI", uri);
    add("URI:", uri);
  }
  for (const std::string& host : request.hosts) {
    if (!IsPlain(host, ":.-_*")) {
      return InvalidArgument("'{}' is no host name or address", host);
    }
    const bool ip = host.find(':') != std::string::npos ||
                    host.find_first_not_of("0123456789.") == std::string::npos;
    add(ip ? "IP:" : "DNS:", host);
  }
  return out;
}

StatusOr<KeyAndCertificate> Make(const CertificateRequest& request, X509* issuer,
                                 EVP_PKEY* issuer_key) {
  const Owned<EVP_PKEY> key(EVP_EC_gen("P-256"));
  const Owned<X509> certificate(X509_new());
  const Owned<BIGNUM> serial(BN_new());
  if (!key || !certificate || !serial ||
      BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) != 1) {
    return Internal("OpenSSL cannot make a key");
  }
  X509* x = certificate.get();
  X509_set_version(x, X509_VERSION_3);
  BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(x));
  ASN1_TIME_set(X509_getm_notBefore(x), request.not_before);
  ASN1_TIME_set(X509_getm_notAfter(x), request.not_after);
  X509_set_pubkey(x, key.get());
  const std::string name = request.common_name.substr(0, kCommonNameMax);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.data()),
                             static_cast<int>(name.size()), -1, 0);
  const bool authority = issuer == nullptr;
  X509_set_issuer_name(x, X509_get_subject_name(authority ? x : issuer));
  const X509* by = authority ? x : issuer;
  CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_subject_key_identifier, "hash"));
  CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_authority_key_identifier, "keyid:always"));
  if (authority) {
    CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
    CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_key_usage, "critical,keyCertSign,cRLSign"));
  } else {
    CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_basic_constraints, "critical,CA:FALSE"));
    CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_key_usage, "critical,digitalSignature"));
    CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_ext_key_usage, "serverAuth,clientAuth"));
    CHOIR_ASSIGN_OR_RETURN(const std::string names, AlternativeNames(request));
    if (!names.empty()) {
      CHOIR_RETURN_IF_ERROR(AddExtension(x, by, NID_subject_alt_name, names));
    }
  }
  if (X509_sign(x, authority ? key.get() : issuer_key, EVP_sha256()) == 0) {
    return Internal("OpenSSL cannot sign");
  }
  const Owned<BIO> key_text = EmptyBio(), text = EmptyBio();
  PEM_write_bio_PrivateKey(key_text.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  PEM_write_bio_X509(text.get(), x);
  return KeyAndCertificate{TextOf(key_text.get()), TextOf(text.get())};
}

}  // namespace

StatusOr<KeyAndCertificate> MakeAuthority(const CertificateRequest& request) {
  return Make(request, nullptr, nullptr);
}

StatusOr<KeyAndCertificate> IssueCertificate(const KeyAndCertificate& authority,
                                             const CertificateRequest& request) {
  const Owned<X509> issuer(
      PEM_read_bio_X509(BioOf(authority.cert_pem).get(), nullptr, nullptr, nullptr));
  const Owned<EVP_PKEY> key(
      PEM_read_bio_PrivateKey(BioOf(authority.key_pem).get(), nullptr, nullptr, nullptr));
  if (!issuer || !key || X509_check_private_key(issuer.get(), key.get()) != 1) {
    return InvalidArgument("the authority's key and certificate do not belong together");
  }
  return Make(request, issuer.get(), key.get());
}

}  // namespace choir
