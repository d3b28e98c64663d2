// The tasks of an owner thread that is the test's: posted by any thread, run where the test waits.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>

namespace choir {

class TaskInbox {
 public:
  std::function<void(std::function<void()>)> post() {
    return [this](std::function<void()> task) {
      const std::lock_guard lock(mu_);
      tasks_.push_back(std::move(task));
      changed_.notify_all();
    };
  }
  // Runs tasks until `done`; false: not within half a minute.
  bool RunUntil(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done()) {
      std::unique_lock lock(mu_);
      if (!changed_.wait_until(lock, end, [this] { return !tasks_.empty(); })) return false;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
    return true;
  }

 private:
  std::mutex mu_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
};

}  // namespace choir
