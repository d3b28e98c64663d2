#include "common/tls/tls_options.h"

#include <arpa/inet.h>

namespace choir {
namespace {

std::string Key(const TlsOptions& options, const std::string& name) {
  return options.prefix.empty() ? name : "router_" + name;
}

void AddFiles(OptionSet* set, TlsOptions* o, const std::string& whose) {
  set->Add(&o->cert, {.key = Key(*o, "tls.cert"),
                      .flag = o->FileFlag("cert"),
                      .help = "PEM file: certificate " + whose + ", leaf first"});
  set->Add(&o->key, {.key = Key(*o, "tls.key"),
                     .flag = o->FileFlag("key"),
                     .help = "PEM file: its private key, without a passphrase"});
}

}  // namespace

void AddPeerTlsOptions(OptionSet* set, TlsOptions* o) {
  AddFiles(set, o, o->prefix.empty() ? "of this part" : "towards the routers");
  set->Add(&o->ca, {.key = Key(*o, "tls.ca"),
                    .flag = o->FileFlag("ca"),
                    .help = "PEM file: the authorities of the other parts' certificates"});
  set->Add(&o->trust_domain,
           {.key = Key(*o, "tls.trust_domain"),
            .flag = o->Flag("tls-trust-domain"),
            .help = "DOMAIN of the parts' names in certificates, spiffe://DOMAIN/ROLE"});
  set->Add(&o->insecure, {.key = Key(*o, "insecure"),
                          .flag = o->Flag("insecure"),
                          .help = "plain text also beyond this machine"});
}

void AddServerTlsOptions(OptionSet* set, TlsOptions* o) {
  AddFiles(set, o, "of the HTTPS server");
  set->Add(&o->insecure, {.key = Key(*o, "insecure"),
                          .flag = o->Flag("insecure"),
                          .help = "plain HTTP also beyond this machine"});
}

bool IsLoopback(const std::string& address) {
  if (address.starts_with("unix:")) return true;
  std::string host = address.substr(0, address.rfind(':'));
  for (const char* scheme : {"ipv4:", "ipv6:", "dns:///", "dns:"}) {
    if (host.starts_with(scheme)) host.erase(0, std::string(scheme).size());
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost";
}

Status CheckTlsNeed(const TlsOptions& options, const std::string& flag,
                    const std::string& address) {
  if (options.configured() || options.insecure || IsLoopback(address)) return absl::OkStatus();
  return InvalidArgument(
      "{} {}: goes beyond this machine, and no TLS is configured: give {} and {}, or {} to send "
      "plain text",
      flag, address, options.FileFlag("cert"), options.FileFlag("key"), options.Flag("insecure"));
}

}  // namespace choir
