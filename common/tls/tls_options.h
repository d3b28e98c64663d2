// TLS of a part as its options name it, and the rule that says where it is needed: beyond loopback
// nothing is bound or dialled in plain text unless that is asked for. Plain values, any thread.
#pragma once

#include <string>

#include "common/base/status.h"
#include "common/config/options.h"

namespace choir {

// Of certificates: the first segments of the path of their SPIFFE id, spiffe://DOMAIN/ROLE.
constexpr char kGatewayRole[] = "gateway";
constexpr char kRouterRole[] = "router";
constexpr char kWorkerRole[] = "worker";
constexpr char kAdminRole[] = "admin";
constexpr char kTenantRole[] = "tenant";  // "tenant/NAME": a client

struct TlsOptions {
  std::string prefix;                  // of the options' names: "", "router-" or "redis-"
  std::string file_prefix = "tls-";    // after it, of those that name files
  std::string cert, key;               // PEM files; empty: no TLS
  std::string ca;                      // PEM bundle that peers' certificates chain to
  std::string trust_domain = "choir";  // DOMAIN of the peers' SPIFFE ids
  bool insecure = false;               // plain text beyond loopback is wanted

  bool configured() const { return !cert.empty() || !key.empty() || !ca.empty(); }
  // "--insecure", "--router-insecure".
  std::string Flag(const std::string& name) const { return "--" + prefix + name; }
  // "--tls-cert", "--router-tls-cert".
  std::string FileFlag(const std::string& name) const { return Flag(file_prefix + name); }
};

// Adds --tls-cert, --tls-key, --tls-ca, --tls-trust-domain and --insecure with the prefix before
// their names (in YAML: tls.cert, router_tls.cert, ...).
void AddPeerTlsOptions(OptionSet* set, TlsOptions* options);
// Adds --tls-cert, --tls-key and --insecure, of a server whose clients need no certificate.
void AddServerTlsOptions(OptionSet* set, TlsOptions* options);

// Whether host:port (also unix: paths) stays on this machine. Names other than localhost do not.
bool IsLoopback(const std::string& address);

// An error that names the options when `address`, which `flag` gave, would carry plain text beyond
// this machine.
Status CheckTlsNeed(const TlsOptions& options, const std::string& flag, const std::string& address);

}  // namespace choir
