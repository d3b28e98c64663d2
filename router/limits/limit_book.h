// The count of limits in one process: what every scope has used, reserved and running. Pure: the
// time is an argument. One thread. A scope that is as good as new is forgotten, so memory is bound
// by the scopes that were used of late (a budget that is partly used is remembered).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/limits/limit_scope.h"

namespace choir {

class LimitBook {
 public:
  struct Bucket {
    std::optional<BucketRule> rule;  // without one only `reserved` is kept
    double level = 0;
    double reserved = 0;
    double spare = 0;
    // Of `level` what another count knows of: set by Record and MarkShared, leaked like it.
    double before = 0;
  };
  struct Scope {
    std::array<Bucket, kNumBuckets> buckets;
    double running = 0;
    double stamp_us = 0;  // levels are as of then; never goes back
  };

  // Decides and counts.
  LimitAnswer Apply(const LimitCall& call, double now_us);
  // Counts what another count has decided: running and reserved are this process's own part, levels
  // are `share` of the answer's, and from here on leak by `scopes`, the rules of that share.
  void Record(const LimitCall& call, const LimitAnswer& answer, double share,
              const std::vector<LimitScope>& scopes, double now_us);

  // What was used since the last Record of a scope was told to the other count.
  void MarkShared();

  size_t size() const { return scopes_.size(); }
  // As of `now_us`.
  void ForEach(double now_us, const std::function<void(const std::string&, const Scope&)>& see);
  ScopeReading Read(const LimitScope& scope, double now_us);

 private:
  Scope& Touch(const LimitScope& scope, double now_us);
  static void Leak(Scope* scope, double now_us);
  static ScopeReading ReadingOf(const Scope& scope);
  static void Take(const LimitCall& call, Scope* scope);
  static void Close(const LimitCall& call, size_t index, Scope* scope);
  void ForgetSome(double now_us);

  std::unordered_map<std::string, Scope> scopes_;
  size_t next_slot_ = 0;  // where forgetting goes on
};

}  // namespace choir
