#include "router/identity/certificate_rules.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "router/identity/keys.h"

namespace choir {
namespace {

constexpr size_t kNameMax = 2048;  // of a SPIFFE id, as its standard has it

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

Status CheckSpiffe(const std::string& id) {
  constexpr std::string_view kScheme = "spiffe://";
  const size_t path = id.find('/', kScheme.size());
  const bool good = id.starts_with(kScheme) && id.size() <= kNameMax && path != std::string::npos &&
                    path > kScheme.size() && path + 1 < id.size();
  const size_t star = id.find('*');
  if (good && (star == std::string::npos || (star + 1 == id.size() && id[star - 1] == '/'))) {
    return absl::OkStatus();
  }
  return InvalidArgument("spiffe: '{}' is no id like spiffe://domain/path, nor one that ends in /*",
                         id.substr(0, 128));
}

Status ReadField(const std::string& name, const YAML::Node& value, CertificateRule* rule,
                 Rights* rights) {
  CHOIR_ASSIGN_OR_RETURN(const bool right, ReadRight(name, value, rights));
  if (right) return absl::OkStatus();
  if (name != "spiffe" && name != "dns" && name != "tenant") {
    return InvalidArgument(
        "unknown field '{}'; known are spiffe, dns, tenant, models, networks, class, limits", name);
  }
  if (!value.IsScalar()) return InvalidArgument("{}: a text is needed", name);
  const std::string text = value.as<std::string>();
  if (name == "tenant") {
    rule->tenant = text;
    return CheckTenantName(text);
  }
  if (name == "dns") {
    rule->dns = Lower(text);
    if (!text.empty() && text.size() <= kNameMax) return absl::OkStatus();
    return InvalidArgument("dns: a name is needed");
  }
  rule->spiffe = text;
  return CheckSpiffe(text);
}

StatusOr<CertificateRule> ReadRule(const YAML::Node& node) {
  if (!node.IsMap()) return InvalidArgument("a map is needed");
  CertificateRule rule;
  Rights rights;
  for (const auto& field : node) {
    CHOIR_RETURN_IF_ERROR(ReadField(field.first.as<std::string>(), field.second, &rule, &rights));
  }
  if (rule.spiffe.empty() == rule.dns.empty()) {
    return InvalidArgument("either spiffe or dns is needed");
  }
  if (rule.tenant.empty()) return InvalidArgument("tenant is needed");
  rule.rights = std::make_shared<const Rights>(std::move(rights));
  return rule;
}

// `dns`: the certificate's names, in lower case.
bool Fits(const CertificateRule& rule, const PeerCertificate& certificate,
          const std::vector<std::string>& dns) {
  if (!rule.spiffe.empty()) {
    if (!rule.spiffe.ends_with('*')) return certificate.spiffe == rule.spiffe;
    const std::string_view prefix = std::string_view(rule.spiffe).substr(0, rule.spiffe.size() - 1);
    return certificate.spiffe.starts_with(prefix) && certificate.spiffe.size() > prefix.size();
  }
  return certificate.spiffe.empty() && std::find(dns.begin(), dns.end(), rule.dns) != dns.end();
}

}  // namespace

StatusOr<std::vector<CertificateRule>> ReadCertificateRules(const YAML::Node& list) {
  std::vector<CertificateRule> rules;
  if (!list.IsSequence()) return InvalidArgument("certificates: a list is needed");
  if (list.size() > kCertificateRulesMax) {
    return InvalidArgument("certificates: more than {}", kCertificateRulesMax);
  }
  try {
    for (size_t i = 0; i < list.size(); ++i) {
      auto rule = ReadRule(list[i]);
      if (!rule.ok()) return Annotate(rule.status(), fmt::format("certificates[{}]", i));
      rules.push_back(*std::move(rule));
    }
  } catch (const YAML::Exception& e) {
    return InvalidArgument("certificates: {}", e.what());
  }
  return rules;
}

const CertificateRule* FindRule(const std::vector<CertificateRule>& rules,
                                const PeerCertificate& certificate) {
  std::vector<std::string> dns;
  for (const std::string& name : certificate.dns) dns.push_back(Lower(name));
  const auto it = std::find_if(rules.begin(), rules.end(), [&](const CertificateRule& rule) {
    return Fits(rule, certificate, dns);
  });
  return it == rules.end() ? nullptr : &*it;
}

}  // namespace choir
