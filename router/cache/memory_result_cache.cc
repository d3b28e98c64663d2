#include <list>
#include <unordered_map>
#include <utility>

#include "router/cache/result_cache.h"

namespace choir {
namespace {

class MemoryResultCache final : public ResultCache {
 public:
  MemoryResultCache(size_t bytes_max, Duration time, const Clock* clock)
      : bytes_max_(bytes_max), time_(time), clock_(clock) {}

  void Find(const ResultKey& key, Found done) override {
    const auto it = by_key_.find(key);
    if (it == by_key_.end()) return done(std::nullopt);
    if (it->second->until <= clock_->Now()) {
      Drop(it->second);
      return done(std::nullopt);
    }
    entries_.splice(entries_.begin(), entries_, it->second);
    done(it->second->answer);
  }

  void Put(const ResultKey& key, const KnownAnswer& answer) override {
    if (const auto it = by_key_.find(key); it != by_key_.end()) Drop(it->second);
    const size_t bytes = BytesOf(answer);
    if (bytes > bytes_max_) return;
    while (bytes_ + bytes > bytes_max_) Drop(std::prev(entries_.end()));
    entries_.push_front({key, answer, bytes, clock_->Now() + time_});
    by_key_.emplace(key, entries_.begin());
    bytes_ += bytes;
  }

  State state() const override {
    return {.store = "memory", .problem = "", .answers = entries_.size(), .bytes = bytes_};
  }

 private:
  struct Entry {
    ResultKey key;
    KnownAnswer answer;
    size_t bytes;
    MonoTime until;
  };
  using Entries = std::list<Entry>;  // what was asked for last is first

  // With the two tables' nodes.
  static size_t BytesOf(const KnownAnswer& answer) {
    size_t bytes = sizeof(Entry) + sizeof(ResultKey) + 8 * sizeof(void*);
    for (const KnownChoice& choice : answer) {
      bytes += sizeof choice + choice.tokens.size() * sizeof choice.tokens[0] +
               choice.finish_reason.size();
    }
    return bytes;
  }
  void Drop(Entries::iterator entry) {
    bytes_ -= entry->bytes;
    by_key_.erase(entry->key);
    entries_.erase(entry);
  }

  const size_t bytes_max_;
  const Duration time_;
  const Clock* const clock_;
  Entries entries_;
  std::unordered_map<ResultKey, Entries::iterator, Sha256DigestHash> by_key_;
  size_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<ResultCache> MakeMemoryResultCache(size_t bytes_max, Duration time,
                                                   const Clock* clock) {
  return std::make_unique<MemoryResultCache>(bytes_max, time, clock);
}

}  // namespace choir
