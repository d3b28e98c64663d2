// `choir tls init`: a private authority and the certificates of all parts, for clusters without a
// PKI of their own.
#include <cstdio>

#include "common/config/options.h"
#include "router/identity/keys.h"
#include "tools/choir/commands.h"
#include "tools/tls/issue.h"

namespace choir {

int RunTlsInit(int argc, const char* const* argv) {
  TlsDirectory d;
  OptionSet set(argv[0],
                "Makes an authority (kept when it is there already) and certificates of gateway, "
                "router, worker and clients (made anew).",
                "");
  set.Add(&d.dir, {.flag = "--dir", .help = "directory of the files", .required = true});
  set.Add(&d.hosts,
          {.flag = "--host",
           .help = "a name or address that clients call the gateway or router by, besides "
                   "this machine's; may be repeated"});
  set.Add(&d.tenants,
          {.flag = "--tenant", .help = "tenant whose client gets a certificate; may be repeated"});
  set.Add(&d.trust_domain,
          {.flag = "--trust-domain", .help = "DOMAIN of the parts' names, spiffe://DOMAIN/ROLE"});
  set.Add(&d.days, {.flag = "--days", .help = "how long the certificates hold"}, 1, 3650);
  set.AddCheck([&d]() -> Status {
    for (const std::string& tenant : d.tenants) CHOIR_RETURN_IF_ERROR(CheckTenantName(tenant));
    return absl::OkStatus();
  });
  if (const auto code = set.Parse(argc, argv)) return *code;
  AddOwnHosts("", &d.hosts);
  if (const Status status = FillTlsDirectory(d); !status.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[0], MessageOf(status).c_str());
    return 1;
  }
  std::fprintf(stderr,
               "%s holds ca.pem and the certificates and keys of gateway, router, worker%s; keep "
               "ca-key.pem away from the machines that serve\n",
               d.dir.c_str(), d.tenants.empty() ? "" : " and the tenants' clients");
  return 0;
}

}  // namespace choir
