// A fixed team of compute threads that run one function together: the rank's team, which comes to a
// kernel with its stream. Owned by the device; used by one thread at a time (the engine's owner
// thread), which itself works as thread 0. Waiting threads spin for a bounded time, then sleep in a
// futex, so an idle team costs no CPU. Limits: 1..256 threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace choir {

class ThreadTeam {
 public:
  // `nice` is added to the helper threads' niceness (stack notes §9: compute threads at +5..+10).
  explicit ThreadTeam(int num_threads, int nice = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return num_threads_; }

  // Calls fn(thread) once for each thread in [0, size()) and returns when all are done.
  void Run(const std::function<void(int thread)>& fn);

  // Calls fn(begin, end) over a partition of [0, count) into chunks of at least `grain` items, one
  // contiguous range a thread. The partition must never change what is computed for an item.
  void For(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& fn);

 private:
  void Loop(int thread);

  const int num_threads_;
  std::vector<std::jthread> threads_;
  const std::function<void(int)>* fn_ = nullptr;  // valid while a generation runs
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> remaining_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace choir
