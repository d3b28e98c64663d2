#include "common/tls/tls_report.h"

#include <nlohmann/json.hpp>

namespace choir {

TlsReport::TlsReport(Metrics* metrics,
                     std::map<std::string, std::shared_ptr<TlsIdentity>> identities) {
  for (auto& [use, identity] : identities) {
    if (identity == nullptr) continue;
    all_.push_back(
        {use, std::move(identity),
         metrics->Gauge("choir_tls_certificate_expiry_timestamp_seconds",
                        "Unix time until which the certificate in force holds.", {{"use", use}}),
         metrics->Counter("choir_tls_refused_peers_total",
                          "Peers turned away because of their certificate.", {{"use", use}})});
  }
  Refresh();
}

bool TlsReport::Refresh() {
  bool good = true;
  std::lock_guard lock(mu_);
  for (One& one : all_) {
    const TlsFacts facts = one.identity->facts();
    one.expires.Set(static_cast<double>(facts.name.not_after));
    one.refused.Increment(static_cast<double>(facts.refused - one.counted));
    one.counted = facts.refused;
    good = good && facts.problem.empty();
  }
  return good;
}

nlohmann::ordered_json TlsReport::Json() const {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const One& one : all_) {
    const TlsFacts facts = one.identity->facts();
    out[one.use] = {{"certificate", facts.name.ForPeople()},
                    {"expires", facts.name.not_after},
                    {"reloads", facts.reloads},
                    {"problem", facts.problem},
                    {"refused", facts.refused},
                    {"last_refused", facts.last_refused}};
  }
  return out;
}

}  // namespace choir
