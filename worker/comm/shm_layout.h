// Memory layout of the shared segment of shm_collectives.h, and the futex calls on it. All fields
// that two processes touch are lock-free atomics.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "common/base/clock.h"

namespace choir::shm {

inline constexpr uint64_t kMagic = 0x31676e6952726843;  // "ChrRing1"
inline constexpr size_t kGatherBytesMax = 4096;
inline constexpr size_t kReasonBytes = 400;
inline constexpr int kRanksMax = 64;

static_assert(std::atomic<uint64_t>::is_always_lock_free &&
              std::atomic<uint32_t>::is_always_lock_free);

enum Death : uint32_t { kAlive = 0, kBeingWritten = 1, kWritten = 2 };

struct alignas(64) Header {
  uint64_t magic;
  uint64_t generation;
  uint64_t ring_bytes;
  uint64_t segment_bytes;
  uint32_t num_ranks;
  alignas(64) std::atomic<uint32_t> death;
  int32_t death_code;
  char reason[kReasonBytes];
};

struct alignas(64) RankSlot {
  // Bumped by whoever changed something this rank may wait for; the word it sleeps on.
  std::atomic<uint32_t> bell;
  std::atomic<uint32_t> sleeping;
  alignas(
      64) std::atomic<uint64_t> meetings;  // how often this rank came to a barrier or all-gather
  std::atomic<uint64_t> announced;         // step + 1; 0: never
  // Double-buffered: meeting n + 2 is written only after all ranks came to n + 1, so have read n.
  alignas(64) std::byte gathered[2][kGatherBytesMax];
};

// Single producer, single consumer; positions only grow. ring_bytes of data follow all the rings.
struct alignas(64) Ring {
  alignas(64) std::atomic<uint64_t> written;
  alignas(64) std::atomic<uint64_t> read;
};

inline constexpr size_t SlotAt(size_t rank) { return sizeof(Header) + rank * sizeof(RankSlot); }
inline constexpr size_t RingAt(size_t ranks, size_t from, size_t to) {
  return SlotAt(ranks) + (from * ranks + to) * sizeof(Ring);
}
inline constexpr size_t DataAt(size_t ranks, size_t ring_bytes, size_t from, size_t to) {
  constexpr size_t kPage = 4096;
  const size_t begin = (RingAt(ranks, ranks, 0) + kPage - 1) / kPage * kPage;
  return begin + (from * ranks + to) * ring_bytes;
}
inline constexpr size_t SegmentBytes(size_t ranks, size_t ring_bytes) {
  return DataAt(ranks, ring_bytes, ranks, 0);
}

// True when the time was over; false when woken, or when `word` was not `value` any more.
inline bool FutexWait(std::atomic<uint32_t>& word, uint32_t value, Duration timeout) {
  const auto ns = std::max<int64_t>(timeout.count(), 0);
  const timespec ts{.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
  // Not FUTEX_PRIVATE: the word is shared between processes.
  const long rc =
      syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, value, &ts, nullptr, 0);
  return rc != 0 && errno == ETIMEDOUT;
}

inline void FutexWakeAll(std::atomic<uint32_t>& word) {
  (void)syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT32_MAX, nullptr,
                nullptr, 0);
}

}  // namespace choir::shm
