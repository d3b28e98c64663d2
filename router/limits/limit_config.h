// Who may use how much, as configured (YAML under `router`):
//
//   tenants:
//     acme: {class: default, weight: 2, requests_per_second: 5, burst: 5, concurrency: 2,
//            tokens_per_minute: 1000, tokens_per_day: 100000, budget: 25}
//   limits:
//     global: {requests_per_second: 100}                 all requests together
//     models: {my-moe: {tokens_per_minute: 1000000}}     all requests for that model
//     default: {requests_per_second: 2}                  each tenant that is not listed
//     prices: {prompt: 0.27, cached: 0.07, output: 1.1}  for a million tokens, for budgets
//   admission: ...                                       router/admission/admission_config.h
//
// Plain values; any thread.
#pragma once

#include <map>
#include <string>

#include "common/base/status.h"
#include "router/admission/admission_config.h"
#include "router/limits/limit_rules.h"

namespace YAML {
class Node;
}

namespace choir {

struct TenantConfig {
  AdmissionClass admission_class = AdmissionClass::kDefault;  // of its keys that have none
  uint64_t weight = 1;  // 1..1000: its part of the work beside other tenants of a class
  LimitRules limits;
  bool operator==(const TenantConfig&) const = default;
};

// For a million tokens, in whatever unit budgets have.
struct TokenPrices {
  double prompt = 0;
  double cached = 0;  // of the prompt, found in a worker's prefix cache
  double output = 0;
  bool operator==(const TokenPrices&) const = default;
};

struct LimitConfig {
  std::map<std::string, TenantConfig> tenants;
  LimitRules default_tenant;
  LimitRules global;
  std::map<std::string, LimitRules> models;
  TokenPrices prices;
  AdmissionConfig admission;  // without tenants
  bool operator==(const LimitConfig&) const = default;
};

inline constexpr size_t kTenantsMax = 100'000;

inline constexpr uint64_t kWeightMax = 1000;

// Read the subtrees `router.tenants` and `router.limits` (ReadAdmission reads `router.admission`).
// Unknown names, doubled names and bad values are errors that name the place below the subtree.
Status ReadTenants(const YAML::Node& node, LimitConfig* config);
Status ReadLimits(const YAML::Node& node, LimitConfig* config);
// InvalidArgument: the rules have a budget, and there are no prices to count it by.
Status CheckBudget(const LimitRules& rules, const TokenPrices& prices);
// Once both were read.
Status CheckLimitConfig(const LimitConfig& config);
// With what the tenants have of it.
AdmissionConfig AdmissionOf(const LimitConfig& config);

}  // namespace choir
