#include "router/identity/token_cache.h"

#include <algorithm>
#include <utility>

namespace choir {

std::shared_ptr<const Principal> TokenCache::Find(const Sha256Digest& token, WallTime now) {
  const std::lock_guard lock(mu_);
  const bool is_young = young_.contains(token);
  Generation& in = is_young ? young_ : old_;
  const auto it = in.find(token);
  if (it == in.end()) return nullptr;
  Entry entry = it->second;
  const bool good = now >= entry.from && now < entry.until;
  if (good && is_young) return entry.principal;
  in.erase(it);
  if (!good) return nullptr;
  Keep(token, entry);  // it is in use: not to be dropped with the old ones
  return entry.principal;
}

void TokenCache::Put(const Sha256Digest& token, std::shared_ptr<const Principal> principal,
                     WallTime now, WallTime until) {
  if (generation_max_ == 0 || time_ <= Duration(0)) return;
  const std::lock_guard lock(mu_);
  Keep(token, {std::move(principal), now, std::min(until, now + time_)});
}

void TokenCache::Keep(const Sha256Digest& token, Entry entry) {
  if (young_.size() >= generation_max_) {
    old_ = std::move(young_);
    young_.clear();
  }
  young_.insert_or_assign(token, std::move(entry));
}

size_t TokenCache::size() const {
  const std::lock_guard lock(mu_);
  return young_.size() + old_.size();
}

}  // namespace choir
