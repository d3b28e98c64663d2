#include "router/limits/limit_answer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "common/base/check.h"

namespace choir {
namespace {

// Some request ends, nobody knows when.
constexpr double kRetryConcurrency = 1;
// What only fits the whole limit has to wait for the shared count to come back.
constexpr double kRetryShare = 5;

double RemainingOf(const BucketRule& rule, const BucketReading& reading) {
  return std::max(0.0, rule.capacity - reading.level - reading.reserved);
}

std::string WhoOf(const std::string& scope) {
  if (scope == "global") return "this service";
  const size_t colon = scope.find(':');
  CHOIR_CHECK(colon != std::string::npos);
  return fmt::format("{} '{}'", scope.substr(0, colon), scope.substr(colon + 1));
}

// The longest wait of all limits of that op; nullopt: one of them can never be met.
std::optional<double> WaitOf(const LimitCall& call, const LimitAnswer& answer) {
  double wait = 0;
  for (size_t i = 0; i < answer.scopes->size(); ++i) {
    for (size_t b = kRequestBucket; b < kBudgetBucket; ++b) {
      const double need = NeedOf(call, b);
      const auto& rule = (*answer.scopes)[i].buckets[b];
      if (!rule || need == 0) continue;
      if (need > (*call.scopes)[i].buckets[b]->capacity + kRounding) return std::nullopt;
      wait = std::max(wait, need > rule->capacity + kRounding
                                ? kRetryShare
                                : WaitSeconds(*rule, answer.readings[i].buckets[b], need));
    }
  }
  return wait;
}

ApiError TokensError(const LimitCall& call, const LimitAnswer& answer, const std::string& who) {
  const bool day = answer.refusal->kind == LimitKind::kDayTokens;
  const size_t bucket = day ? kDayBucket : kMinuteBucket;
  const BucketRule& rule = *(*answer.scopes)[answer.refusal->scope].buckets[bucket];
  const auto& reading = answer.readings[answer.refusal->scope].buckets[bucket];
  const auto wait = WaitOf(call, answer);
  if (!wait) {
    return RateLimited("tokens",
                       fmt::format("this request may use {:.0f} tokens (prompt and max_tokens of "
                                   "every choice), more than {} may use in a {} at all ({:.0f}): "
                                   "ask for fewer",
                                   call.tokens, who, day ? "day" : "minute", rule.capacity),
                       0);
  }
  return RateLimited(
      "tokens",
      fmt::format("{} may use {:.0f} tokens a {}, of which {:.0f} are left; this request may use "
                  "{:.0f} (prompt and max_tokens of every choice)",
                  who, rule.capacity, day ? "day" : "minute",
                  std::floor(RemainingOf(rule, reading) + kRounding), call.tokens),
      *wait);
}

}  // namespace

std::vector<LimitReading> ReadingsOf(const LimitAnswer& answer) {
  std::vector<LimitReading> out;
  const auto add = [&](const char* name, std::initializer_list<BucketKind> kinds) {
    std::optional<LimitReading> least;
    for (size_t i = 0; i < answer.readings.size(); ++i) {
      for (const BucketKind kind : kinds) {
        const auto& rule = (*answer.scopes)[i].buckets[kind];
        if (!rule) continue;
        const BucketReading& reading = answer.readings[i].buckets[kind];
        const auto left = static_cast<uint64_t>(RemainingOf(*rule, reading) + kRounding);
        if (least && least->remaining <= left) continue;
        const double used = reading.level + reading.reserved;
        least = {name, static_cast<uint64_t>(rule->capacity), left,
                 used * rule->period_us / rule->leak / 1e6};
      }
    }
    if (least) out.push_back(*std::move(least));
  };
  add("requests", {kRequestBucket});
  add("tokens", {kMinuteBucket, kDayBucket});
  return out;
}

ApiError ErrorOf(const LimitCall& call, const LimitAnswer& answer) {
  const LimitScope& scope = (*answer.scopes)[answer.refusal->scope];
  const std::string who = WhoOf(scope.name);
  ApiError error;
  switch (answer.refusal->kind) {
    case LimitKind::kRequests: {
      const BucketRule& rule = *scope.buckets[kRequestBucket];
      error = RateLimited("requests",
                          fmt::format("{} may make {:g} requests a second, {:.0f} at once", who,
                                      rule.leak, std::floor(rule.capacity)),
                          WaitOf(call, answer).value_or(0));
      break;
    }
    case LimitKind::kConcurrency:
      error = RateLimited(
          "concurrency",
          fmt::format("{} may have {:.0f} requests running at once", who, *scope.concurrency),
          kRetryConcurrency);
      break;
    case LimitKind::kBudget:
      error = InsufficientBalance(
          call.op == LimitOp::kAdmit
              ? fmt::format("the budget of {} is used up", who)
              : fmt::format("this request may cost more than what is left of the budget of {}: "
                            "ask for fewer tokens",
                            who));
      break;
    case LimitKind::kMinuteTokens:
    case LimitKind::kDayTokens:
      error = TokensError(call, answer, who);
      break;
  }
  error.limit_rule = fmt::format("{}.{}", scope.name, LimitKindName(answer.refusal->kind));
  error.limits = ReadingsOf(answer);
  return error;
}

std::string RuleOf(const LimitCall& call, const LimitAnswer& answer) {
  std::string out;
  for (const LimitScope& scope : *answer.scopes) {
    out += (out.empty() ? "" : ",") + scope.name;
  }
  return answer.scopes == call.scopes ? out : out + " (share)";
}

}  // namespace choir
