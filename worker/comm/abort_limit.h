// Ends the process when a call does not come back in time: NCCL's abort was seen to hang
// (NVIDIA/nccl issues 549, 863), and a restart frees what it held.
#pragma once

#include <fmt/format.h>
#include <pthread.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/base/clock.h"
#include "common/base/restart.h"

namespace choir {

class AbortLimit {
 public:
  explicit AbortLimit(Duration limit) {
    thread_ = std::jthread([this, limit] {
      pthread_setname_np(pthread_self(), "nccl-abort");
      std::unique_lock lock(mu_);
      if (ended_.wait_for(lock, limit, [this] { return over_; })) return;
      EndForRestart(fmt::format("NCCL's abort has not come back in {:g} s", Seconds(limit)));
    });
  }
  ~AbortLimit() {
    const std::lock_guard lock(mu_);
    over_ = true;
    ended_.notify_all();
  }

 private:
  std::mutex mu_;  // guards over_
  std::condition_variable ended_;
  bool over_ = false;
  std::jthread thread_;
};

}  // namespace choir
