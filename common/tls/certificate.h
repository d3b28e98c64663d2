// Certificates: reading and checking a part's own files, and judging what a peer shows. Every
// refusal says which file or whose certificate, what is wrong with it and since when. Thread-safe:
// values and pure functions.
#pragma once

#include <openssl/types.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/tls/tls_options.h"

namespace choir {

// What a certificate says about its holder.
struct CertificateName {
  std::string subject;    // "CN=router 1", for people
  std::string spiffe;     // "spiffe://choir/router"; empty: none, or more than one
  std::string identity;   // its path within our trust domain, "router"; empty: none
  int64_t not_after = 0;  // seconds since 1970

  std::string ForPeople() const;  // "CN=router 1 (spiffe://choir/router)"
};

// What tells who a client is, of a certificate that was found good.
struct PeerCertificate {
  std::string spiffe;            // as above
  std::string identity;          // as above: "tenant/acme"
  std::vector<std::string> dns;  // its DNS names, when it has no URI at all
};

// A part's own files, read together and found good. Immutable.
struct TlsMaterial {
  TlsOptions options;    // where it came from
  std::string cert_pem;  // leaf first; empty: none
  std::string key_pem;
  CertificateName name;                     // of the leaf
  std::shared_ptr<X509_STORE> authorities;  // null: peers are not judged
};

// Reads and checks options.cert, key and ca: readable, PEM, the key is the certificate's, the dates
// hold now. With a `role` also that the certificate is for it and that a ca is given.
StatusOr<std::shared_ptr<const TlsMaterial>> LoadTlsMaterial(const TlsOptions& options,
                                                             const std::string& role);

// Of a client of a server that is no part of ours: it may have no cert, and no ca, or what there is
// is read and checked as above.
StatusOr<std::shared_ptr<const TlsMaterial>> LoadClientMaterial(const TlsOptions& options);

// What the peer is in the connection.
enum class PeerSide { kClient, kServer };

// Whose certificate it is when it chains to `own`'s authorities, is valid now and may be used on
// that side. Unauthenticated, with the reason, otherwise. REQUIRES: own.authorities.
StatusOr<CertificateName> JudgePeer(const TlsMaterial& own, PeerSide side,
                                    const std::string& leaf_pem, const std::string& chain_pem);

// Why OpenSSL found a peer's certificate not good: "its certificate CN=x is signed by no authority
// of `authorities`".
std::string WhyRefused(X509_STORE_CTX* context, const std::string& authorities);

// OK when the identity is one of the roles or below it ("worker/g0r1"). PermissionDenied, with
// both, otherwise.
Status CheckRole(const CertificateName& name, std::initializer_list<const char*> roles);

// "router" of "spiffe://choir/router" for the domain "choir"; empty for any other.
std::string IdentityOf(const std::string& spiffe, const std::string& trust_domain);

}  // namespace choir
