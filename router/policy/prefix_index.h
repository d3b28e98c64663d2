// Which holders have computed which beginnings of prompts, as far as they were told here. Bounded:
// beyond marks_max the mark that was not used for longest is forgotten, always after those that
// follow it in its prompt, so what is known of a prompt is closed towards its begin. A mark knows
// its last kHoldersMax holders. 56 bytes a mark, allocated as it grows. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "router/policy/prompt_prefix.h"

namespace choir {

class PrefixIndex {
 public:
  using Holder = uint32_t;  // not 0
  static constexpr size_t kHoldersMax = 6;

  explicit PrefixIndex(uint32_t marks_max);  // 1..2^31

  // `holder` has all of these, and they were just used.
  void Insert(std::span<const PrefixMark> marks, Holder holder);
  // The holders of a mark, the one last told first; empty when it is not known. Valid until the
  // next change.
  std::span<const Holder> HoldersOf(const PrefixMark& mark) const;
  // How many of `marks`, from the first, are known. O(log marks).
  size_t NumKnown(std::span<const PrefixMark> marks) const;

  size_t size() const { return entries_.size(); }
  uint32_t marks_max() const { return marks_max_; }
  uint64_t num_forgotten() const { return num_forgotten_; }  // for want of room

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Entry {
    uint64_t key = 0;
    uint32_t next_in_bucket = kNone;
    uint32_t older = kNone, newer = kNone;
    uint32_t num_holders = 0;
    std::array<Holder, kHoldersMax> holders{};
  };

  uint32_t Find(uint64_t key) const;
  uint32_t FindOrAdd(uint64_t key);
  uint32_t Forget();  // the oldest; its entry is free then
  void Link(uint32_t entry);
  void Unlink(uint32_t entry);
  void Grow();

  const uint32_t marks_max_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> buckets_;  // a power of two
  uint32_t oldest_ = kNone, newest_ = kNone;
  uint64_t num_forgotten_ = 0;
};

}  // namespace choir
