#include "common/tls/certificate.h"

#include <fmt/ranges.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/openssl_owned.h"
#include "common/config/file_watch.h"

namespace choir {
namespace {

constexpr uint64_t kFileBytesMax = 1 << 20;
constexpr size_t kChainMax = 10;

std::vector<Owned<X509>> Certificates(const std::string& pem, size_t max) {
  std::vector<Owned<X509>> out;
  const Owned<BIO> bio = BioOf(pem);
  while (out.size() < max) {
    Owned<X509> one(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (!one) break;
    out.push_back(std::move(one));
  }
  ERR_clear_error();  // the end of the text is an error to OpenSSL
  return out;
}

int NoPassphrase(char*, int, int, void*) { return -1; }

int64_t UnixSeconds(const ASN1_TIME* time) {
  tm parts{};
  return ASN1_TIME_to_tm(time, &parts) == 1 ? timegm(&parts) : 0;
}

std::string DateOf(const ASN1_TIME* time) {
  const time_t seconds = UnixSeconds(time);
  tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts)};
}

std::string NameText(const X509_NAME* name) {
  const Owned<BIO> bio = EmptyBio();
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253);
  return TextOf(bio.get()).substr(0, 256);
}

// The one URI, when it is a SPIFFE id: the standard allows no second URI of any kind.
std::string SpiffeOf(const X509* certificate) {
  const Owned<GENERAL_NAMES> names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> uris;
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                      static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  const bool has = uris.size() == 1 && uris[0].starts_with("spiffe://");
  return has ? uris[0].substr(0, 2048) : "";
}

CertificateName NameOf(const X509* certificate, const std::string& trust_domain) {
  CertificateName name;
  name.subject = NameText(X509_get_subject_name(certificate));
  name.spiffe = SpiffeOf(certificate);
  name.identity = IdentityOf(name.spiffe, trust_domain);
  name.not_after = UnixSeconds(X509_get0_notAfter(certificate));
  return name;
}

StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  auto text = ReadSmallFile(path, kFileBytesMax);
  if (!text.ok()) return Annotate(text.status(), flag);
  return text;
}

StatusOr<std::shared_ptr<X509_STORE>> ReadAuthorities(const TlsOptions& options) {
  const std::string flag = options.FileFlag("ca");
  CHOIR_ASSIGN_OR_RETURN(const std::string pem, ReadPem(flag, options.ca));
  const auto all = Certificates(pem, 1000);
  if (all.empty()) return InvalidArgument("{} {}: holds no PEM certificate", flag, options.ca);
  std::shared_ptr<X509_STORE> store(X509_STORE_new(), X509_STORE_free);
  for (const auto& one : all) X509_STORE_add_cert(store.get(), one.get());
  // An authority in the bundle is trusted as it stands, whether or not its own issuer is there.
  X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
  return store;
}

Status CheckDates(const std::string& where, const X509* leaf) {
  if (X509_cmp_current_time(X509_get0_notAfter(leaf)) < 0) {
    return FailedPrecondition("{}: expired on {}: renew it", where,
                              DateOf(X509_get0_notAfter(leaf)));
  }
  if (X509_cmp_current_time(X509_get0_notBefore(leaf)) > 0) {
    return FailedPrecondition("{}: is valid only from {}: check the clock of this machine", where,
                              DateOf(X509_get0_notBefore(leaf)));
  }
  return absl::OkStatus();
}

Status CheckKey(const TlsOptions& options, const std::string& pem, const X509* leaf) {
  const std::string where = options.FileFlag("key") + " " + options.key;
  const Owned<EVP_PKEY> key(
      PEM_read_bio_PrivateKey(BioOf(pem).get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (!key) {
    const bool encrypted = pem.find("ENCRYPTED") != std::string::npos;
    return InvalidArgument(
        "{}: {}", where,
        encrypted ? "is encrypted: give a key without a passphrase" : "holds no PEM private key");
  }
  const bool matches = X509_check_private_key(leaf, key.get()) == 1;
  ERR_clear_error();
  if (!matches) {
    return InvalidArgument("{}: does not match the certificate {}", where, options.cert);
  }
  struct stat st = {};
  if (stat(options.key.c_str(), &st) == 0 && (st.st_mode & S_IROTH) != 0) {
    CHOIR_LOG(warn, "{}: every user of this machine can read it: chmod o-r", where);
  }
  return absl::OkStatus();
}

Status CheckOptions(const TlsOptions& o, const std::string& role) {
  std::vector<std::string> missing;
  if (o.cert.empty()) missing.push_back(o.FileFlag("cert"));
  if (o.key.empty()) missing.push_back(o.FileFlag("key"));
  if (o.ca.empty() && !role.empty()) missing.push_back(o.FileFlag("ca"));
  if (missing.empty()) return absl::OkStatus();
  return InvalidArgument("{}: missing; TLS needs all of its files", fmt::join(missing, ", "));
}

std::string Why(X509_STORE_CTX* context, const std::string& authorities) {
  const int error = X509_STORE_CTX_get_error(context);
  const X509* at = X509_STORE_CTX_get_current_cert(context);
  std::string of;
  if (X509_STORE_CTX_get_error_depth(context) > 0 && at != nullptr) {
    of = "its issuer " + NameText(X509_get_subject_name(at)) + ' ';
  }
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return fmt::format("{}expired on {}", of, DateOf(X509_get0_notAfter(at)));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return fmt::format("{}is valid only from {}", of, DateOf(X509_get0_notBefore(at)));
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return "is signed by no authority of " + authorities;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return "is for another host";
    default:
      return of + X509_verify_cert_error_string(error);
  }
}

Status ReadCertificate(const std::string& role, TlsMaterial* material) {
  const TlsOptions& options = material->options;
  const std::string flag = options.FileFlag("cert"), where = flag + " " + options.cert;
  CHOIR_ASSIGN_OR_RETURN(material->cert_pem, ReadPem(flag, options.cert));
  CHOIR_ASSIGN_OR_RETURN(material->key_pem, ReadPem(options.FileFlag("key"), options.key));
  const auto chain = Certificates(material->cert_pem, kChainMax);
  if (chain.empty()) return InvalidArgument("{}: holds no PEM certificate", where);
  const X509* leaf = chain.front().get();
  CHOIR_RETURN_IF_ERROR(CheckKey(options, material->key_pem, leaf));
  CHOIR_RETURN_IF_ERROR(CheckDates(where, leaf));
  material->name = NameOf(leaf, options.trust_domain);
  if (role.empty()) return absl::OkStatus();
  return Annotate(CheckRole(material->name, {role.c_str()}), where);
}

StatusOr<std::shared_ptr<const TlsMaterial>> ReadMaterial(const TlsOptions& options,
                                                          const std::string& role) {
  auto material = std::make_shared<TlsMaterial>();
  material->options = options;
  if (!options.cert.empty()) CHOIR_RETURN_IF_ERROR(ReadCertificate(role, material.get()));
  if (!options.ca.empty()) {
    CHOIR_ASSIGN_OR_RETURN(material->authorities, ReadAuthorities(options));
  }
  return material;
}

}  // namespace

std::string CertificateName::ForPeople() const {
  if (spiffe.empty()) return subject;
  return fmt::format("{} ({})", subject, spiffe);
}

std::string IdentityOf(const std::string& spiffe, const std::string& trust_domain) {
  const std::string prefix = "spiffe://" + trust_domain + "/";
  return spiffe.starts_with(prefix) ? spiffe.substr(prefix.size()) : "";
}

StatusOr<std::shared_ptr<const TlsMaterial>> LoadTlsMaterial(const TlsOptions& options,
                                                             const std::string& role) {
  CHOIR_RETURN_IF_ERROR(CheckOptions(options, role));
  return ReadMaterial(options, role);
}

StatusOr<std::shared_ptr<const TlsMaterial>> LoadClientMaterial(const TlsOptions& options) {
  if (options.cert.empty() != options.key.empty()) {
    return InvalidArgument("{}, {}: give both or neither", options.FileFlag("cert"),
                           options.FileFlag("key"));
  }
  return ReadMaterial(options, "");
}

std::string WhyRefused(X509_STORE_CTX* context, const std::string& authorities) {
  const CertificateName name = NameOf(X509_STORE_CTX_get0_cert(context), "");
  return fmt::format("its certificate {} {}", name.ForPeople(), Why(context, authorities));
}

StatusOr<CertificateName> JudgePeer(const TlsMaterial& own, PeerSide side,
                                    const std::string& leaf_pem, const std::string& chain_pem) {
  CHOIR_CHECK(own.authorities != nullptr);
  const auto leaf = Certificates(leaf_pem, 1);
  if (leaf.empty()) return Unauthenticated("it shows no certificate");
  const auto chain = Certificates(chain_pem, kChainMax);
  const Owned<STACK_OF(X509)> untrusted(sk_X509_new_null());
  for (const auto& one : chain) sk_X509_push(untrusted.get(), one.get());
  const Owned<X509_STORE_CTX> context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), own.authorities.get(), leaf[0].get(), untrusted.get());
  X509_STORE_CTX_set_purpose(
      context.get(), side == PeerSide::kClient ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER);
  CertificateName name = NameOf(leaf[0].get(), own.options.trust_domain);
  const bool good = X509_verify_cert(context.get()) == 1;
  ERR_clear_error();
  if (good) return name;
  return Unauthenticated(
      "{}", WhyRefused(context.get(), own.options.FileFlag("ca") + " " + own.options.ca));
}

Status CheckRole(const CertificateName& name, std::initializer_list<const char*> roles) {
  const bool has = std::any_of(roles.begin(), roles.end(), [&](const std::string& role) {
    return name.identity == role || name.identity.starts_with(role + "/");
  });
  if (has) return absl::OkStatus();
  return PermissionDenied("the certificate {} is for {}, the role of a {} is needed", name.subject,
                          name.spiffe.empty() ? "no role" : name.spiffe, fmt::join(roles, " or "));
}

}  // namespace choir
