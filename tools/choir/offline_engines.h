// The engines of one model as ranks of one group in this process, each on a thread of its own, for
// commands without servers. Any thread may submit; sinks run on the engines' threads.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/base/status.h"
#include "tools/choir/offline.h"
#include "worker/engine/engine.h"

namespace choir {

class OfflineEngines {
 public:
  // Makes the sink of a rank; sinks of different ranks run at the same time.
  using SinkFor = std::function<Engine::Sink(size_t rank)>;

  // `options.num_threads` is set from the model's threads.
  static StatusOr<std::unique_ptr<OfflineEngines>> Start(const OfflineModel& model,
                                                         EngineOptions options,
                                                         const SinkFor& sink_for);
  ~OfflineEngines();  // stops and joins
  OfflineEngines(const OfflineEngines&) = delete;
  OfflineEngines& operator=(const OfflineEngines&) = delete;

  Engine& rank(size_t r) { return *engines_[r]; }
  size_t size() const { return engines_.size(); }

 private:
  OfflineEngines() = default;

  std::vector<std::unique_ptr<Engine>> engines_;
  std::vector<std::jthread> threads_;
};

// kv_bytes for `sequences` sequences of `tokens` tokens each.
uint64_t KvBytesFor(const LoadedModel& model, int64_t sequences, int64_t tokens,
                    int64_t block_tokens);

}  // namespace choir
