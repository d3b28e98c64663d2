// Keys that the router has just recognised: the body of a request with one of them may be read
// without asking again, since the router judges the key itself when the request is opened. Holds
// digests, no keys. Pure; one thread.
#pragma once

#include <cstddef>
#include <map>
#include <string_view>

#include "common/base/clock.h"
#include "common/base/sha256.h"

namespace choir {

class KnownKeys {
 public:
  // `known_for` zero: none is ever known. Beyond `keys_max` all are forgotten.
  KnownKeys(const Clock* clock, Duration known_for, size_t keys_max)
      : clock_(clock), known_for_(known_for), keys_max_(keys_max) {}

  bool Knows(std::string_view key) const {
    if (until_.empty()) return false;
    const auto it = until_.find(Sha256Of(key));
    return it != until_.end() && clock_->Now() < it->second;
  }
  void Learn(std::string_view key) {
    if (known_for_ == Duration(0)) return;
    if (until_.size() >= keys_max_) until_.clear();
    until_[Sha256Of(key)] = clock_->Now() + known_for_;
  }
  void Forget(std::string_view key) { until_.erase(Sha256Of(key)); }

 private:
  const Clock* const clock_;
  const Duration known_for_;
  const size_t keys_max_;
  std::map<Sha256Digest, MonoTime> until_;
};

}  // namespace choir
