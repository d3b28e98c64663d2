#include "common/runtime/thread_team.h"

#include <sys/resource.h>

#include <algorithm>

#include "common/base/check.h"
#include "common/base/platform.h"

namespace choir {
namespace {

constexpr int kSpins = 2000;  // about 10-50 us, then futex

// Waits until `word` differs from `old`.
void SpinThenWait(std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    CpuRelax();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadTeam::ThreadTeam(int num_threads, int nice) : num_threads_(num_threads) {
  CHOIR_CHECK(num_threads >= 1 && num_threads <= 256);
  for (int t = 1; t < num_threads; ++t) {
    threads_.emplace_back([this, t, nice] {
      pthread_setname_np(pthread_self(), ("team-" + std::to_string(t)).c_str());
      if (nice != 0) (void)setpriority(PRIO_PROCESS, 0, nice);  // 0: the calling thread on Linux
      Loop(t);
    });
  }
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
}

void ThreadTeam::Loop(int thread) {
  uint32_t seen = 0;
  while (true) {
    SpinThenWait(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    (*fn_)(thread);
    if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) remaining_.notify_one();
  }
}

void ThreadTeam::Run(const std::function<void(int)>& fn) {
  if (num_threads_ == 1) {
    fn(0);
    return;
  }
  fn_ = &fn;
  remaining_.store(static_cast<uint32_t>(num_threads_ - 1), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  fn(0);
  while (true) {
    const uint32_t left = remaining_.load(std::memory_order_acquire);
    if (left == 0) break;
    SpinThenWait(remaining_, left);
  }
  fn_ = nullptr;
}

void ThreadTeam::For(int64_t count, int64_t grain,
                     const std::function<void(int64_t, int64_t)>& fn) {
  if (count <= 0) return;
  const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, num_threads_);
  if (parts == 1) {
    fn(0, count);
    return;
  }
  Run([&](int thread) {
    if (thread >= parts) return;
    const int64_t begin = count * thread / parts;
    const int64_t end = count * (thread + 1) / parts;
    if (begin < end) fn(begin, end);
  });
}

}  // namespace choir
