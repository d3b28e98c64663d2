// One greedy token through the real engine before a worker calls itself ready: it goes through the
// weights of every rank of the group and must come back finite. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "common/base/status.h"
#include "worker/engine/engine.h"

namespace choir {

class SelfTestRun {
 public:
  // `done` gets the result, once for each Start that is not overtaken by the end of its epoch.
  using Done = std::function<void(const Status& result)>;
  SelfTestRun(int64_t vocab, Done done) : vocab_(vocab), done_(std::move(done)) {}

  // An epoch began.
  void Start(Engine* engine);
  // The epoch ended: a token on its way does not count any more.
  void Forget();
  // The engine's output, on its thread. Takes out what belongs to the test.
  void Look(StepOutput* output, Engine* engine);

 private:
  SequenceRequest NextLocked();
  static Status Judge(const SequenceOutput& update);

  const int64_t vocab_;
  const Done done_;
  std::mutex mu_;       // guards all below
  SequenceId running_;  // 0: none
  uint64_t runs_ = 0;
};

}  // namespace choir
