// Which tenants the holders of client certificates are (YAML: router.certificates). Plain values,
// any thread. The first rule that fits counts:
//
//   - {spiffe: "spiffe://corp/ns/ai/sa/app", tenant: acme, class: bulk, models: [my-moe]}
//   - {spiffe: "spiffe://corp/ns/ai/*", tenant: acme}      # and all below
//   - {dns: app.example.org, tenant: acme, networks: [10.0.0.0/8]}
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/tls/certificate.h"
#include "router/identity/rights.h"

namespace choir {

struct CertificateRule {
  std::string spiffe;  // the id, or one that ends in "/*"
  std::string dns;     // lower case; either this or spiffe is set
  std::string tenant;
  std::shared_ptr<const Rights> rights;  // never null
};

inline constexpr size_t kCertificateRulesMax = 10'000;

// The list; the error names the entry and the field.
StatusOr<std::vector<CertificateRule>> ReadCertificateRules(const YAML::Node& list);

// A certificate with a SPIFFE id is known by it alone, one without any URI by its DNS names. Null:
// no rule fits.
const CertificateRule* FindRule(const std::vector<CertificateRule>& rules,
                                const PeerCertificate& certificate);

}  // namespace choir
