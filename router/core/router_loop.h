// The owner thread of a RouterCore: everything that touches the core is posted here and runs in
// order. Prompts are read (template, tokens) on a small pool of threads. Post, PostRequest and
// RunText may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/runtime/bounded_queue.h"

namespace choir {

class RouterCore;

struct LoopLimits {
  // Streams and calls that may be open at once: each has a bounded number of events under way,
  // which is what bounds the loop's own queue.
  size_t sessions_max = 65'536;
  size_t text_jobs_max = 4'096;
  size_t text_threads = 2;
};

class RouterLoop {
 public:
  using Task = std::function<void()>;

  explicit RouterLoop(LoopLimits limits);
  ~RouterLoop();  // stops

  // `each_round` runs after each batch of tasks, on the owner thread (flushes what the batch
  // wrote).
  void Start(RouterCore* core, std::function<void()> each_round);
  // Runs what is queued, then ends the threads.
  void Stop();

  // Never refuses: callers hold a Session or are one of the few fixed parts of the process.
  void Post(Task task);
  // A round without a task: what `each_round` could not do before can be done now. Any thread.
  void Wake();
  // For the core's run_text: `work` on the pool, then `then` on the owner thread.
  bool RunText(Task work, Task then);
  // Runs `task` on the owner thread and waits; false when it did not come to it in time.
  bool Call(Task task, Duration timeout);

  // A place for one open call or stream; the holder has at most four events under way. Null when
  // all are taken.
  std::shared_ptr<void> OpenSession();

  // For liveness: how long the owner thread has been in its current round.
  Duration BusyFor(const Clock& clock) const;

 private:
  void Run();
  void RunTexts();

  const LoopLimits limits_;
  BoundedQueue<Task> tasks_;
  struct TextJob {
    Task work;
    Task then;
  };
  BoundedQueue<TextJob> texts_;
  std::shared_ptr<std::atomic<size_t>> sessions_ = std::make_shared<std::atomic<size_t>>(0);
  std::atomic<int64_t> round_began_ns_{0};  // 0: asleep
  RouterCore* core_ = nullptr;
  std::function<void()> each_round_;
  std::thread owner_;
  std::vector<std::thread> pool_;
  bool running_ = false;
};

}  // namespace choir
