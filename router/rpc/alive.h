// Counts the reactors that gRPC still holds, so that what they refer to can be kept until none is
// left. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>

namespace choir {

class Alive {
 public:
  void Add() {
    std::lock_guard lock(mu_);
    ++count_;
  }
  void Remove() {
    std::lock_guard lock(mu_);
    --count_;
    none_.notify_all();
  }
  void WaitNone() {
    std::unique_lock lock(mu_);
    none_.wait(lock, [this] { return count_ == 0; });
  }

 private:
  std::mutex mu_;
  std::condition_variable none_;
  size_t count_ = 0;
};

}  // namespace choir
