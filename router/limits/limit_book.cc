#include "router/limits/limit_book.h"

#include <algorithm>

namespace choir {
namespace {

// Looked at with every call: more than one scope a call can make, so the book shrinks in the end.
constexpr size_t kSlotsEachCall = 8;

}  // namespace

void LimitBook::Leak(Scope* scope, double now_us) {
  const double elapsed = now_us - scope->stamp_us;
  if (elapsed <= 0) return;  // also when the clock went back
  scope->stamp_us = now_us;
  for (Bucket& bucket : scope->buckets) {
    if (!bucket.rule || bucket.rule->leak <= 0) continue;
    const double leak = elapsed * bucket.rule->leak / bucket.rule->period_us;
    if (leak > bucket.level) bucket.spare += leak - bucket.level;
    bucket.level = std::max(0.0, bucket.level - leak);
    bucket.before = std::max(0.0, bucket.before - leak);
  }
}

LimitBook::Scope& LimitBook::Touch(const LimitScope& scope, double now_us) {
  const auto [it, added] = scopes_.try_emplace(scope.name);
  Scope& found = it->second;
  if (added) found.stamp_us = now_us;
  Leak(&found, now_us);  // by the rules of until now
  for (size_t b = 0; b < kNumBuckets; ++b) {
    Bucket& bucket = found.buckets[b];
    bucket.rule = scope.buckets[b];
    if (!bucket.rule) bucket.level = bucket.before = 0;
  }
  return found;
}

ScopeReading LimitBook::ReadingOf(const Scope& scope) {
  ScopeReading reading;
  for (size_t b = 0; b < kNumBuckets; ++b) {
    const Bucket& bucket = scope.buckets[b];
    reading.buckets[b] = {bucket.level, bucket.reserved, bucket.spare};
  }
  reading.running = scope.running;
  return reading;
}

void LimitBook::Take(const LimitCall& call, Scope* scope) {
  if (call.op == LimitOp::kAdmit) {
    Bucket& requests = scope->buckets[kRequestBucket];
    if (requests.rule) requests.level += NeedOf(call, kRequestBucket);
    scope->running += 1;
    return;
  }
  for (size_t b = kMinuteBucket; b < kNumBuckets; ++b) {
    scope->buckets[b].reserved += NeedOf(call, b);
  }
}

void LimitBook::Close(const LimitCall& call, size_t index, Scope* scope) {
  scope->running = std::max(0.0, scope->running - 1);
  Bucket& requests = scope->buckets[kRequestBucket];
  if (requests.rule && call.withdrawn && call.admitted_us >= 0 && !call.resumed) {
    // Only what cannot have leaked yet: others may have used the room.
    const double leaked =
        (scope->stamp_us - call.admitted_us) * requests.rule->leak / requests.rule->period_us;
    requests.level = std::max(0.0, requests.level - std::max(0.0, 1 - leaked));
  }
  for (size_t b = kMinuteBucket; b < kNumBuckets; ++b) {
    Bucket& bucket = scope->buckets[b];
    // Whoever has reserved is running: nothing may be left over by rounding.
    bucket.reserved = scope->running == 0 ? 0 : std::max(0.0, bucket.reserved - NeedOf(call, b));
    if (!bucket.rule) continue;
    const double used = UsedOf(call, b);
    const double since = index < call.spare.size() ? bucket.spare - call.spare[index][b] : 0;
    const double paid = std::min(used, std::max(0.0, since));
    bucket.spare -= paid;
    bucket.level += used - paid;
  }
}

LimitAnswer LimitBook::Apply(const LimitCall& call, double now_us) {
  ForgetSome(now_us);
  LimitAnswer answer{.refusal = {}, .scopes = call.scopes, .readings = {}, .now_us = now_us};
  std::vector<Scope*> scopes;
  for (const LimitScope& scope : *call.scopes) {
    scopes.push_back(&Touch(scope, now_us));  // of an unordered_map: they stay where they are
    answer.readings.push_back(ReadingOf(*scopes.back()));
  }
  answer.refusal = FindRefusal(call, *call.scopes, answer.readings);
  if (answer.refusal) return answer;
  for (size_t i = 0; i < scopes.size(); ++i) {
    if (call.op == LimitOp::kClose) {
      Close(call, i, scopes[i]);
    } else {
      Take(call, scopes[i]);
    }
    answer.readings[i] = ReadingOf(*scopes[i]);
  }
  return answer;
}

void LimitBook::Record(const LimitCall& call, const LimitAnswer& answer, double share,
                       const std::vector<LimitScope>& scopes, double now_us) {
  ForgetSome(now_us);
  for (size_t i = 0; i < scopes.size(); ++i) {
    Scope& scope = Touch(scopes[i], now_us);
    if (call.op == LimitOp::kClose) {
      Close(call, i, &scope);
    } else if (!answer.refusal) {
      Take(call, &scope);
    }
    for (size_t b = 0; b < kNumBuckets; ++b) {
      Bucket& bucket = scope.buckets[b];
      if (!bucket.rule) continue;
      bucket.level = bucket.before = answer.readings[i].buckets[b].level * share;
    }
  }
}

void LimitBook::MarkShared() {
  for (auto& [name, scope] : scopes_) {
    for (Bucket& bucket : scope.buckets) bucket.before = bucket.level;
  }
}

void LimitBook::ForEach(double now_us,
                        const std::function<void(const std::string&, const Scope&)>& see) {
  for (auto& [name, scope] : scopes_) {
    Leak(&scope, now_us);
    see(name, scope);
  }
}

ScopeReading LimitBook::Read(const LimitScope& scope, double now_us) {
  const auto it = scopes_.find(scope.name);
  if (it == scopes_.end()) return {};
  Leak(&it->second, now_us);
  return ReadingOf(it->second);
}

void LimitBook::ForgetSome(double now_us) {
  std::vector<std::string> idle;
  for (size_t i = 0; i < kSlotsEachCall && scopes_.bucket_count() > 0; ++i) {
    next_slot_ = (next_slot_ + 1) % scopes_.bucket_count();
    for (auto it = scopes_.begin(next_slot_); it != scopes_.end(next_slot_); ++it) {
      Leak(&it->second, now_us);
      const bool used =
          std::any_of(it->second.buckets.begin(), it->second.buckets.end(),
                      [](const Bucket& bucket) { return bucket.level > 0 || bucket.reserved > 0; });
      if (!used && it->second.running == 0) idle.push_back(it->first);
    }
  }
  for (const std::string& name : idle) scopes_.erase(name);
}

}  // namespace choir
