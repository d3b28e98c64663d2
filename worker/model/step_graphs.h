// StepGraphs: the work of a decode step as graphs of the device, one for each bucket of rows and of
// context lengths, so that a step is one launch instead of a thousand. A step of fewer rows is
// padded to its bucket; lengths only size what is launched. A bucket's first step runs as it is
// (kernels are loaded then), the second one is recorded, all later ones run the record. What was
// recorded refers to memory only, never to values of the host; when that memory changes, the graphs
// are dropped and made anew.
//
// A record that fails is no error: steps go on without graphs, and it is said once. Owned by the
// model; owner thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "worker/device/device.h"
#include "worker/model/model.h"

namespace choir {

// What recorded work refers to besides the model's own memory.
struct GraphMemory {
  const void* logits = nullptr;
  const void* kv = nullptr;
  const void* workspace = nullptr;
  uint64_t experts = 0;  // PlacedExperts::serial
  bool operator==(const GraphMemory&) const = default;
};

// What a graph is for: rows, and keys that none of them exceeds.
struct GraphBucket {
  int64_t rows = 0;  // 0: none
  int64_t keys = 0;
};

class StepGraphs {
 public:
  StepGraphs() = default;  // none
  // Of steps of up to `rows_max` rows, of sequences of up to `keys_max` tokens. No rows, or a
  // device without graphs: none.
  StepGraphs(Device* device, int64_t rows_max, int64_t keys_max);

  // Of a step of `rows` rows whose longest sequence has `keys` tokens.
  GraphBucket BucketOf(int64_t rows, int64_t keys) const;
  // Enqueues the step: by calling `enqueue`, or its record. `bucket`: of BucketOf, with rows.
  Status Run(const GraphBucket& bucket, const GraphMemory& memory,
             const std::function<Status()>& enqueue);
  const GraphStats& stats() const { return stats_; }

 private:
  Status Record(const std::function<Status()>& enqueue, DeviceGraph* graph);

  Device* device_ = nullptr;
  int64_t keys_max_ = 0;
  std::vector<int64_t> rows_;  // of buckets, ascending
  // By rows and keys, once used; null: one step was.
  std::map<std::pair<int64_t, int64_t>, DeviceGraph> graphs_;
  GraphMemory memory_;
  GraphStats stats_;
};

}  // namespace choir
