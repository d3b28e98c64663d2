// Bounded multi-producer queue: the door into an owner thread. Full is an answer, not a wait:
// TryPush returns false and the caller refuses its client. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace choir {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t size_max) : size_max_(size_max) {}

  bool TryPush(T item) {
    {
      std::lock_guard lock(mu_);
      if (closed_ || items_.size() >= size_max_) return false;
      items_.push_back(std::move(item));
    }
    ready_.notify_one();
    return true;
  }

  // Everything that is there, at once, in order; does not wait.
  std::vector<T> DrainAll() {
    std::lock_guard lock(mu_);
    return TakeLocked();
  }

  // As DrainAll, but waits until there is an item, Wake() or Close() was called, or the time is
  // over.
  template <typename Rep, typename Period>
  std::vector<T> WaitDrain(std::chrono::duration<Rep, Period> timeout) {
    std::unique_lock lock(mu_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_ || woken_; });
    woken_ = false;
    return TakeLocked();
  }

  // The first item, for several consumers of one queue; nullopt when there was none in time.
  template <typename Rep, typename Period>
  std::optional<T> WaitPop(std::chrono::duration<Rep, Period> timeout) {
    std::unique_lock lock(mu_);
    ready_.wait_for(lock, timeout, [&] { return !items_.empty() || closed_; });
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  void Wake() {
    {
      std::lock_guard lock(mu_);
      woken_ = true;
    }
    ready_.notify_all();
  }

  void Close() {
    {
      std::lock_guard lock(mu_);
      closed_ = true;
    }
    ready_.notify_all();
  }

  bool closed() const {
    std::lock_guard lock(mu_);
    return closed_;
  }
  size_t size() const {
    std::lock_guard lock(mu_);
    return items_.size();
  }

 private:
  std::vector<T> TakeLocked() {
    std::vector<T> out(std::make_move_iterator(items_.begin()),
                       std::make_move_iterator(items_.end()));
    items_.clear();
    return out;
  }

  const size_t size_max_;
  mutable std::mutex mu_;
  std::condition_variable ready_;
  std::deque<T> items_;
  bool closed_ = false;
  bool woken_ = false;
};

}  // namespace choir
