#include "router/limits/limit_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <variant>

#include "common/config/options.h"

namespace choir {
namespace {

using Whole = std::optional<uint64_t> LimitRules::*;
using Real = std::optional<double> LimitRules::*;

struct Rule {
  std::string_view name;
  std::variant<Whole, Real> member;
  double min, max;
};

const Rule kRules[] = {
    {"requests_per_second", &LimitRules::requests_per_second, 1e-4, 1e6},
    {"burst", &LimitRules::burst, 1, 1e6},
    {"concurrency", &LimitRules::concurrency, 1, 1e6},
    {"tokens_per_minute", &LimitRules::tokens_per_minute, 1, 1e12},
    {"tokens_per_day", &LimitRules::tokens_per_day, 1, 1e12},
    {"budget", &LimitRules::budget, 0, 1e9},
};

const Rule* Find(std::string_view name) {
  const Rule* const rule = std::find_if(std::begin(kRules), std::end(kRules),
                                        [&](const Rule& r) { return r.name == name; });
  return rule == std::end(kRules) ? nullptr : rule;
}

// False: no number of that kind, whatever its size.
template <typename T>
bool Read(const std::string& text, const Rule& rule, std::optional<T>* out) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return false;
  const double size = static_cast<double>(value);
  if (!(size >= rule.min && size <= rule.max)) return false;
  *out = value;
  return true;
}

}  // namespace

bool IsLimitRule(std::string_view name) { return Find(name) != nullptr; }

std::vector<std::string> LimitRuleNames() {
  std::vector<std::string> names;
  for (const Rule& rule : kRules) names.emplace_back(rule.name);
  return names;
}

Status SetLimitRule(std::string_view name, const std::string& text, LimitRules* rules) {
  const Rule* const rule = Find(name);
  if (rule == nullptr) {
    return InvalidArgument("unknown limit '{}'{}", name,
                           NearestOrAllHint(std::string(name), LimitRuleNames()));
  }
  const bool whole = std::holds_alternative<Whole>(rule->member);
  const bool good = whole ? Read(text, *rule, &(rules->*std::get<Whole>(rule->member)))
                          : Read(text, *rule, &(rules->*std::get<Real>(rule->member)));
  if (good) return absl::OkStatus();
  return InvalidArgument("{}: '{}' is not {} from {:g} to {:g}", name, text,
                         whole ? "an integer" : "a number", rule->min, rule->max);
}

Status CompleteLimitRules(LimitRules* rules) {
  if (rules->requests_per_second && !rules->burst) {
    rules->burst = static_cast<uint64_t>(std::max(1.0, std::ceil(*rules->requests_per_second)));
  }
  if (rules->burst && !rules->requests_per_second) {
    return InvalidArgument("burst: needs requests_per_second, whose requests it lets come at once");
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, std::string>> FormatLimitRules(const LimitRules& rules) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const Rule& rule : kRules) {
    std::visit(
        [&](auto member) {
          const auto& value = rules.*member;
          if (value) out.emplace_back(rule.name, fmt::format("{}", *value));
        },
        rule.member);
  }
  return out;
}

}  // namespace choir
