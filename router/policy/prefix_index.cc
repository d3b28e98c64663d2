#include "router/policy/prefix_index.h"

#include <algorithm>

#include "common/base/check.h"

namespace choir {

PrefixIndex::PrefixIndex(uint32_t marks_max) : marks_max_(marks_max), buckets_(1024, kNone) {
  CHOIR_CHECK(marks_max >= 1 && marks_max <= uint32_t{1} << 31);
}

uint32_t PrefixIndex::Find(uint64_t key) const {
  uint32_t at = buckets_[key & (buckets_.size() - 1)];
  while (at != kNone && entries_[at].key != key) at = entries_[at].next_in_bucket;
  return at;
}

void PrefixIndex::Link(uint32_t at) {
  entries_[at].older = newest_;
  entries_[at].newer = kNone;
  (newest_ == kNone ? oldest_ : entries_[newest_].newer) = at;
  newest_ = at;
}

void PrefixIndex::Unlink(uint32_t at) {
  const Entry& entry = entries_[at];
  (entry.older == kNone ? oldest_ : entries_[entry.older].newer) = entry.newer;
  (entry.newer == kNone ? newest_ : entries_[entry.newer].older) = entry.older;
}

void PrefixIndex::Grow() {
  buckets_.assign(buckets_.size() * 2, kNone);
  for (uint32_t at = 0; at < entries_.size(); ++at) {
    uint32_t& bucket = buckets_[entries_[at].key & (buckets_.size() - 1)];
    entries_[at].next_in_bucket = bucket;
    bucket = at;
  }
}

uint32_t PrefixIndex::Forget() {
  const uint32_t at = oldest_;
  Unlink(at);
  uint32_t* link = &buckets_[entries_[at].key & (buckets_.size() - 1)];
  while (*link != at) link = &entries_[*link].next_in_bucket;
  *link = entries_[at].next_in_bucket;
  ++num_forgotten_;
  return at;
}

uint32_t PrefixIndex::FindOrAdd(uint64_t key) {
  uint32_t at = Find(key);
  if (at != kNone) {
    Unlink(at);
    Link(at);
    return at;
  }
  if (entries_.size() < marks_max_) {
    if (entries_.size() == buckets_.size()) Grow();
    at = static_cast<uint32_t>(entries_.size());
    entries_.emplace_back();
  } else {
    at = Forget();
  }
  uint32_t& bucket = buckets_[key & (buckets_.size() - 1)];
  entries_[at] = {.key = key, .next_in_bucket = bucket};
  bucket = at;
  Link(at);
  return at;
}

// Deepest first, so that none is forgotten before those that follow it.
void PrefixIndex::Insert(std::span<const PrefixMark> marks, Holder holder) {
  // More than there is room for would push out its own begin.
  marks = marks.first(std::min<size_t>(marks.size(), marks_max_));
  for (size_t i = marks.size(); i-- > 0;) {
    Entry& entry = entries_[FindOrAdd(marks[i].key)];
    const auto end = entry.holders.begin() + entry.num_holders;
    auto at = std::find(entry.holders.begin(), end, holder);
    if (at == end) {
      entry.num_holders = std::min<uint32_t>(entry.num_holders + 1, kHoldersMax);
      at = entry.holders.begin() + entry.num_holders - 1;
      *at = holder;
    }
    std::rotate(entry.holders.begin(), at, at + 1);
  }
}

std::span<const PrefixIndex::Holder> PrefixIndex::HoldersOf(const PrefixMark& mark) const {
  const uint32_t at = Find(mark.key);
  if (at == kNone) return {};
  return std::span(entries_[at].holders).first(entries_[at].num_holders);
}

size_t PrefixIndex::NumKnown(std::span<const PrefixMark> marks) const {
  return static_cast<size_t>(
      std::partition_point(marks.begin(), marks.end(),
                           [&](const PrefixMark& mark) { return Find(mark.key) != kNone; }) -
      marks.begin());
}

}  // namespace choir
