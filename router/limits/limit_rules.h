// What somebody may use: a tenant, a key, a model or everybody together. Plain values; any thread.
// Names and values are those of the configuration's `router.tenants` and of a key's `limits`:
//
//   requests_per_second: 5      burst: 5           (five at once, then one every 0.2 s)
//   concurrency: 2              requests at once
//   tokens_per_minute: 1000     tokens_per_day: 100000     prompt and output together
//   budget: 25.0                money, in the unit of router.limits.prices
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/status.h"

namespace choir {

// Absent: no such limit.
struct LimitRules {
  std::optional<double> requests_per_second;  // 0.0001..1e6
  std::optional<uint64_t> burst;              // 1..1e6, only with requests_per_second
  std::optional<uint64_t> concurrency;        // 1..1e6
  std::optional<uint64_t> tokens_per_minute;  // 1..1e12
  std::optional<uint64_t> tokens_per_day;     // 1..1e12
  std::optional<double> budget;               // 0..1e9

  bool empty() const { return *this == LimitRules{}; }
  bool operator==(const LimitRules&) const = default;
};

bool IsLimitRule(std::string_view name);
std::vector<std::string> LimitRuleNames();
// One `name: text`. An error names the rule and its range, or the name nearest to an unknown one.
Status SetLimitRule(std::string_view name, const std::string& text, LimitRules* rules);
// Rules that belong together; call once all are set. Fills in an absent burst: a second's worth, at
// least 1.
Status CompleteLimitRules(LimitRules* rules);
// As SetLimitRule takes them back.
std::vector<std::pair<std::string, std::string>> FormatLimitRules(const LimitRules& rules);

}  // namespace choir
