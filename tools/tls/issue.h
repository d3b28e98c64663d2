// Makes certificates: a private authority and what it signs, for clusters without a PKI of their
// own (`choir tls init`, `choir up --tls`) and for tests. ECDSA P-256, SHA-256. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

struct KeyAndCertificate {
  std::string key_pem, cert_pem;
};

struct CertificateRequest {
  std::string common_name;
  std::vector<std::string> uris;   // {"spiffe://choir/router"}
  std::vector<std::string> hosts;  // DNS names and IP addresses
  int64_t not_before = 0;          // seconds since 1970
  int64_t not_after = 0;
};

// A self-signed authority.
StatusOr<KeyAndCertificate> MakeAuthority(const CertificateRequest& request);
// Signed by the authority, for servers and clients.
StatusOr<KeyAndCertificate> IssueCertificate(const KeyAndCertificate& authority,
                                             const CertificateRequest& request);

// A directory of certificates: ca.pem, ca-key.pem; NAME.pem and NAME-key.pem of gateway, router,
// worker and of each client `tenant-T`.
struct TlsDirectory {
  std::string dir;
  std::string trust_domain = "choir";
  std::vector<std::string> hosts;    // of gateway and router, besides those of this machine
  std::vector<std::string> tenants;  // whose clients get a certificate
  int64_t days = 365;                // of all but the authority, which gets ten years
};
// Makes the directory and the authority when there are none yet, and all other certificates anew.
// Files appear whole; keys are 0600.
Status FillTlsDirectory(const TlsDirectory& directory);

// Appends what clients may call this machine: localhost, its name, the addresses of its interfaces,
// and the host of `listen`.
void AddOwnHosts(const std::string& listen, std::vector<std::string>* hosts);

}  // namespace choir
