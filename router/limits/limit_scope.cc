#include "router/limits/limit_scope.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace choir {
namespace {

constexpr double kSecondUs = 1e6, kMinuteUs = 60e6, kDayUs = 86'400e6;
constexpr double kMillionths = 1e6;  // of the budget's unit: a price per million tokens is one's

bool Fits(const BucketRule& rule, const BucketReading& reading, double need) {
  return reading.level + reading.reserved + need <= rule.capacity + kRounding;
}

}  // namespace

LimitScope MakeScope(std::string name, const LimitRules& rules) {
  LimitScope scope{.name = std::move(name), .buckets = {}, .concurrency = std::nullopt};
  if (rules.requests_per_second) {
    scope.buckets[kRequestBucket] = {static_cast<double>(rules.burst.value_or(1)),
                                     *rules.requests_per_second, kSecondUs};
  }
  if (rules.tokens_per_minute) {
    const double tokens = static_cast<double>(*rules.tokens_per_minute);
    scope.buckets[kMinuteBucket] = {tokens, tokens, kMinuteUs};
  }
  if (rules.tokens_per_day) {
    const double tokens = static_cast<double>(*rules.tokens_per_day);
    scope.buckets[kDayBucket] = {tokens, tokens, kDayUs};
  }
  if (rules.budget) scope.buckets[kBudgetBucket] = {*rules.budget * kMillionths, 0, kSecondUs};
  if (rules.concurrency) scope.concurrency = static_cast<double>(*rules.concurrency);
  return scope;
}

LimitScope ShareOf(const LimitScope& scope, double replicas) {
  LimitScope share = scope;
  for (auto& bucket : share.buckets) {
    if (!bucket) continue;
    bucket->capacity /= replicas;
    bucket->leak /= replicas;
  }
  if (auto& requests = share.buckets[kRequestBucket]) {
    requests->capacity = std::max(1.0, requests->capacity);
  }
  if (share.concurrency) {
    share.concurrency = std::max(1.0, std::floor(*share.concurrency / replicas));
  }
  return share;
}

const char* LimitKindName(LimitKind kind) {
  switch (kind) {
    case LimitKind::kRequests:
      return "requests_per_second";
    case LimitKind::kMinuteTokens:
      return "tokens_per_minute";
    case LimitKind::kDayTokens:
      return "tokens_per_day";
    case LimitKind::kBudget:
      return "budget";
    case LimitKind::kConcurrency:
      return "concurrency";
  }
  return "";
}

double NeedOf(const LimitCall& call, size_t bucket) {
  if (call.op == LimitOp::kAdmit) return bucket == kRequestBucket && !call.resumed ? 1 : 0;
  if (bucket == kRequestBucket) return 0;
  return bucket == kBudgetBucket ? call.money : call.tokens;
}

double UsedOf(const LimitCall& call, size_t bucket) {
  if (bucket == kRequestBucket) return 0;
  return bucket == kBudgetBucket ? call.used_money : call.used_tokens;
}

std::optional<LimitRefusal> FindRefusal(const LimitCall& call,
                                        const std::vector<LimitScope>& scopes,
                                        const std::vector<ScopeReading>& readings) {
  if (call.resumed || call.op == LimitOp::kClose) return std::nullopt;
  const bool admit = call.op == LimitOp::kAdmit;
  for (size_t i = 0; i < scopes.size(); ++i) {
    const auto& rule = scopes[i].buckets[kBudgetBucket];
    const BucketReading& reading = readings[i].buckets[kBudgetBucket];
    // Before its cost is known, a request only needs something to be left.
    if (rule && (admit ? reading.level + reading.reserved >= rule->capacity
                       : !Fits(*rule, reading, call.money))) {
      return LimitRefusal{i, LimitKind::kBudget};
    }
  }
  for (size_t i = 0; i < scopes.size(); ++i) {
    const LimitScope& scope = scopes[i];
    const auto refuses = [&](BucketKind kind) {
      const auto& rule = scope.buckets[kind];
      return rule && !Fits(*rule, readings[i].buckets[kind], NeedOf(call, kind));
    };
    if (admit) {
      if (refuses(kRequestBucket)) return LimitRefusal{i, LimitKind::kRequests};
      if (scope.concurrency && readings[i].running + 1 > *scope.concurrency) {
        return LimitRefusal{i, LimitKind::kConcurrency};
      }
    } else {
      if (refuses(kMinuteBucket)) return LimitRefusal{i, LimitKind::kMinuteTokens};
      if (refuses(kDayBucket)) return LimitRefusal{i, LimitKind::kDayTokens};
    }
  }
  return std::nullopt;
}

double WaitSeconds(const BucketRule& rule, const BucketReading& reading, double need) {
  const double over = reading.level + reading.reserved + need - rule.capacity;
  return over <= kRounding ? 0 : over * rule.period_us / rule.leak / 1e6;
}

}  // namespace choir
