// What limits are made of: scopes (a key, a tenant, a model, everybody) with leaky buckets and a
// bound on requests at once, what is asked of them and what they answer. Plain values that every
// backend shares; amounts are doubles so that the same arithmetic runs here and in Redis.
//
// A bucket holds what was used and leaks it; what fits under its capacity may be used. For requests
// that is GCRA (ITU-T I.371, the continuous-state leaky bucket), for tokens a token bucket seen
// from below, for a budget a bucket that does not leak.
//
// Tokens are reserved at their most before they are used and settled at what was used. An open
// reservation does not leak: what may still be used counts in full. The refill that finds its
// bucket empty meanwhile is not lost to whoever is just using tokens: the bucket counts it as
// `spare`, and a settlement pays from what came to be spare since its reservation. So requests
// admitted in any window of t seconds never use more than capacity + t * leak, and a tenant who
// asks one thing after the other gets all of its rate. docs/decisions/0013.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/limits/limit_rules.h"

namespace choir {

inline constexpr size_t kNumBuckets = 4;
enum BucketKind : size_t { kRequestBucket, kMinuteBucket, kDayBucket, kBudgetBucket };
// A sum of fractions may miss a whole number by so much.
inline constexpr double kRounding = 1e-6;

struct BucketRule {
  double capacity = 0;
  double leak = 0;  // a period; 0: never
  double period_us = 1e6;
  bool operator==(const BucketRule&) const = default;
};

struct LimitScope {
  std::string name;  // "tenant:acme", "key:k1", "model:m", "global"
  std::array<std::optional<BucketRule>, kNumBuckets> buckets;
  std::optional<double> concurrency;
};
using LimitScopes = std::shared_ptr<const std::vector<LimitScope>>;

LimitScope MakeScope(std::string name, const LimitRules& rules);
// One of `replicas` equal parts. What cannot be divided stays 1: a request at a time.
LimitScope ShareOf(const LimitScope& scope, double replicas);

enum class LimitOp { kAdmit, kReserve, kClose };

struct LimitCall {
  LimitOp op = LimitOp::kAdmit;
  LimitScopes scopes;
  // A request that was admitted elsewhere and goes on here: counted as running and for its tokens,
  // not as a request, and never refused.
  bool resumed = false;
  // kReserve: what may be used. kClose: what was reserved.
  double tokens = 0;
  double money = 0;
  // kClose.
  double used_tokens = 0;
  double used_money = 0;
  bool withdrawn = false;   // it was not served after all and does not count as a request
  double admitted_us = -1;  // as the answer to kAdmit said; < 0: not known
  // `spare` of every scope's buckets as the answer to kReserve said; empty: not known.
  std::vector<std::array<double, kNumBuckets>> spare;
  uint64_t era = 0;  // of the answers that said so
};

struct BucketReading {
  double level = 0;     // used and not leaked
  double reserved = 0;  // may still be used
  double spare = 0;
};
struct ScopeReading {
  std::array<BucketReading, kNumBuckets> buckets;
  double running = 0;
};

enum class LimitKind { kRequests, kMinuteTokens, kDayTokens, kBudget, kConcurrency };
const char* LimitKindName(LimitKind kind);  // as in LimitRules

struct LimitRefusal {
  size_t scope = 0;
  LimitKind kind = LimitKind::kRequests;
};

struct LimitAnswer {
  std::optional<LimitRefusal> refusal;  // then nothing was taken from any scope
  LimitScopes scopes;                   // in force: as asked, or a share of them
  std::vector<ScopeReading> readings;   // after the call
  double now_us = 0;                    // on the clock of whoever counts
  uint64_t era = 0;                     // answers of one era have one clock and one count
};

// The bucket's part in a call.
double NeedOf(const LimitCall& call, size_t bucket);
double UsedOf(const LimitCall& call, size_t bucket);
// Which limit refuses the call first: a budget, then scope by scope. The readings are those before
// the call.
std::optional<LimitRefusal> FindRefusal(const LimitCall& call,
                                        const std::vector<LimitScope>& scopes,
                                        const std::vector<ScopeReading>& readings);
// Until `need` fits; 0: it does.
double WaitSeconds(const BucketRule& rule, const BucketReading& reading, double need);

}  // namespace choir
