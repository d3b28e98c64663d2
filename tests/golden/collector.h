// Takes what the engines of a group put out, of any thread, until sequences end.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "worker/engine/engine.h"

namespace choir {

class Collector {
 public:
  void Take(const StepOutput& output) {
    std::lock_guard lock(mu_);
    for (const SequenceOutput& u : output.updates) {
      std::vector<int32_t>& tokens = tokens_[u.id.value()];
      tokens.insert(tokens.end(), u.tokens.begin(), u.tokens.end());
      if (u.finish != Finish::kNone) finishes_[u.id.value()] = u.finish;
    }
    changed_.notify_all();
  }
  Finish Wait(uint64_t id) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return finishes_.contains(id); });
    return finishes_[id];
  }
  std::map<uint64_t, std::vector<int32_t>> tokens() {
    std::lock_guard lock(mu_);
    return tokens_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::map<uint64_t, std::vector<int32_t>> tokens_;
  std::map<uint64_t, Finish> finishes_;
};

}  // namespace choir
