#include "worker/model/step_graphs.h"

#include <algorithm>
#include <bit>

#include "common/base/log.h"

namespace choir {
namespace {

// 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, ...: a padded row costs less the more there are, and a
// graph takes megabytes of the device (what its kernels are called with).
constexpr int64_t kBucketRows = 8;
// Fourfold from here on: what is launched for keys that are not there leaves at once.
constexpr int64_t kBucketKeys = 4096;
constexpr int64_t kKeysFactor = 4;

int64_t NextBucket(int64_t rows) {
  if (rows < kBucketRows) return 2 * rows;
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows)));
  return rows + std::max(power / 2, kBucketRows);
}

}  // namespace

StepGraphs::StepGraphs(Device* device, int64_t rows_max, int64_t keys_max)
    : device_(device), keys_max_(keys_max) {
  if (!device->HasGraphs()) return;
  for (int64_t rows = 1; rows < rows_max; rows = NextBucket(rows)) rows_.push_back(rows);
  if (rows_max > 0) rows_.push_back(rows_max);
}

GraphBucket StepGraphs::BucketOf(int64_t rows, int64_t keys) const {
  const auto bucket = std::lower_bound(rows_.begin(), rows_.end(), rows);
  if (rows == 0 || bucket == rows_.end()) return {};
  int64_t bound = kBucketKeys;
  while (bound < keys) bound *= kKeysFactor;
  return {*bucket, std::min(bound, keys_max_)};
}

Status StepGraphs::Run(const GraphBucket& bucket, const GraphMemory& memory,
                       const std::function<Status()>& enqueue) {
  if (!(memory == memory_)) graphs_.clear();
  memory_ = memory;
  const auto [entry, first] = graphs_.try_emplace({bucket.rows, bucket.keys});
  if (first) return enqueue();
  DeviceGraph& graph = entry->second;
  if (graph == nullptr) {
    if (const Status recorded = Record(enqueue, &graph); !recorded.ok()) {
      CHOIR_LOG(warn,
                "steps run without graphs from now on: one of {} rows could not be recorded: {}",
                bucket.rows, MessageOf(recorded));
      rows_.clear();
      graphs_.clear();
      return enqueue();
    }
  }
  device_->RunGraph(graph);
  ++stats_.replays;
  return {};
}

Status StepGraphs::Record(const std::function<Status()>& enqueue, DeviceGraph* graph) {
  CHOIR_RETURN_IF_ERROR(device_->BeginGraph());
  const Status enqueued = enqueue();
  StatusOr<DeviceGraph> made = device_->EndGraph();
  CHOIR_RETURN_IF_ERROR(enqueued);
  CHOIR_ASSIGN_OR_RETURN(*graph, std::move(made));
  ++stats_.captures;
  return {};
}

}  // namespace choir
