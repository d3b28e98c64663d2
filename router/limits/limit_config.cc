#include "router/limits/limit_config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "common/base/plain_name.h"
#include "common/config/options.h"
#include "common/config/yaml_map.h"

namespace choir {
namespace {

Status SetRule(const std::string& name, const YAML::Node& value, LimitRules* rules) {
  if (value.IsNull()) return absl::OkStatus();  // as if absent
  if (!value.IsScalar()) return InvalidArgument("{}: must be a single value", name);
  return SetLimitRule(name, value.Scalar(), rules);
}

Status ReadRules(const YAML::Node& node, LimitRules* rules) {
  if (!node.IsMap()) return InvalidArgument("must be a mapping of limits");
  std::set<std::string> seen;
  for (const auto& item : node) {
    const std::string name = item.first.IsScalar() ? item.first.Scalar() : "?";
    if (!seen.insert(name).second) return InvalidArgument("{} is given twice", name);
    CHOIR_RETURN_IF_ERROR(SetRule(name, item.second, rules));
  }
  return CompleteLimitRules(rules);
}

Status SetClassOrWeight(const std::string& name, const std::string& value, TenantConfig* tenant) {
  if (name == "class") {
    const std::optional<AdmissionClass> named = ParseAdmissionClass(value);
    if (!named) {
      return InvalidArgument("class: '{}' is not one of interactive | default | bulk | system",
                             value);
    }
    tenant->admission_class = *named;
    return absl::OkStatus();
  }
  const StatusOr<uint64_t> weight = ParseInteger(value, 1, kWeightMax);
  if (!weight.ok()) return Annotate(weight.status(), "weight");
  tenant->weight = *weight;
  return absl::OkStatus();
}

Status ReadTenant(const YAML::Node& node, TenantConfig* tenant) {
  if (node.IsNull()) return absl::OkStatus();
  if (!node.IsMap()) return InvalidArgument("must be a mapping of limits");
  std::set<std::string> seen;
  for (const auto& item : node) {
    const std::string name = item.first.IsScalar() ? item.first.Scalar() : "?";
    if (!seen.insert(name).second) return InvalidArgument("{} is given twice", name);
    if (name == "class" || name == "weight") {
      const std::string value = item.second.IsScalar() ? item.second.Scalar() : "";
      CHOIR_RETURN_IF_ERROR(SetClassOrWeight(name, value, tenant));
    } else if (IsLimitRule(name)) {
      CHOIR_RETURN_IF_ERROR(SetRule(name, item.second, &tenant->limits));
    } else {
      std::vector<std::string> known = LimitRuleNames();
      known.insert(known.end(), {"class", "weight"});
      return InvalidArgument("unknown key '{}'{}", name, NearestOrAllHint(name, known));
    }
  }
  return CompleteLimitRules(&tenant->limits);
}

Status ReadPrices(const YAML::Node& node, TokenPrices* prices) {
  return ReadYamlMap(node, [&](const std::string& name, const YAML::Node& value) -> Status {
    double* const price = name == "prompt"   ? &prices->prompt
                          : name == "cached" ? &prices->cached
                          : name == "output" ? &prices->output
                                             : nullptr;
    if (price == nullptr) {
      return InvalidArgument("unknown key{}",
                             NearestOrAllHint(name, {"prompt", "cached", "output"}));
    }
    const std::string text = value.IsScalar() ? value.Scalar() : "";
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), *price);
    if (error != std::errc() || rest != text.data() + text.size() ||
        !(*price >= 0 && *price <= 1e6)) {
      return InvalidArgument("'{}' is not a number from 0 to 1e+06", text);
    }
    return absl::OkStatus();
  });
}

Status CheckName(const std::string& tenant) {
  if (IsPlainName(tenant, 64)) return absl::OkStatus();
  return InvalidArgument("a tenant's name is 1 to 64 of letters, digits, '.', '_' and '-'");
}

}  // namespace

Status ReadTenants(const YAML::Node& node, LimitConfig* config) {
  return ReadYamlMap(node, [&](const std::string& name, const YAML::Node& value) -> Status {
    CHOIR_RETURN_IF_ERROR(CheckName(name));
    if (config->tenants.size() >= kTenantsMax) {
      return InvalidArgument("more than {} tenants", kTenantsMax);
    }
    return ReadTenant(value, &config->tenants[name]);
  });
}

Status ReadLimits(const YAML::Node& node, LimitConfig* config) {
  return ReadYamlMap(node, [&](const std::string& name, const YAML::Node& value) -> Status {
    if (name == "global") return ReadRules(value, &config->global);
    if (name == "default") return ReadRules(value, &config->default_tenant);
    if (name == "prices") return ReadPrices(value, &config->prices);
    if (name == "models") {
      return ReadYamlMap(value, [&](const std::string& model, const YAML::Node& rules) {
        return ReadRules(rules, &config->models[model]);
      });
    }
    return InvalidArgument("unknown key{}",
                           NearestOrAllHint(name, {"global", "default", "models", "prices"}));
  });
}

AdmissionConfig AdmissionOf(const LimitConfig& config) {
  AdmissionConfig admission = config.admission;
  for (const auto& [name, tenant] : config.tenants) {
    admission.tenants[name] = {.admission_class = tenant.admission_class,
                               .weight = static_cast<double>(tenant.weight)};
  }
  return admission;
}

Status CheckBudget(const LimitRules& rules, const TokenPrices& prices) {
  if (!rules.budget || prices != TokenPrices{}) return absl::OkStatus();
  return InvalidArgument(
      "a budget needs prices: give router.limits.prices, as "
      "{{prompt: 0.27, cached: 0.07, output: 1.1}} for a million tokens");
}

Status CheckLimitConfig(const LimitConfig& config) {
  std::vector<const LimitRules*> all = {&config.global, &config.default_tenant};
  for (const auto& [name, tenant] : config.tenants) all.push_back(&tenant.limits);
  for (const auto& [name, rules] : config.models) all.push_back(&rules);
  for (const LimitRules* rules : all) {
    CHOIR_RETURN_IF_ERROR(Annotate(CheckBudget(*rules, config.prices), "router"));
  }
  return absl::OkStatus();
}

}  // namespace choir
