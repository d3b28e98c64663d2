// Tokens that were verified a moment ago, by their SHA-256: a signature costs some 50 us. Bounded
// in number and time; a hit is never older than its own end, nor younger than its beginning (the
// clock was set back: it is verified again). Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>

#include "common/base/clock.h"
#include "common/base/sha256.h"
#include "router/identity/principal.h"

namespace choir {

class TokenCache {
 public:
  // At most `tokens_max` are kept, each for at most `time`; 0 of either: none.
  TokenCache(size_t tokens_max, Duration time) : generation_max_(tokens_max / 2), time_(time) {}

  // Null: not there, or not good at `now`.
  std::shared_ptr<const Principal> Find(const Sha256Digest& token, WallTime now);
  void Put(const Sha256Digest& token, std::shared_ptr<const Principal> principal, WallTime now,
           WallTime until);
  size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<const Principal> principal;
    WallTime from, until;
  };
  using Generation = std::unordered_map<Sha256Digest, Entry, Sha256DigestHash>;

  void Keep(const Sha256Digest& token, Entry entry);

  const size_t generation_max_;
  const Duration time_;
  mutable std::mutex mu_;   // guards both
  Generation young_, old_;  // when the young one is full it becomes the old one, which is dropped
};

}  // namespace choir
