// Eight layers of DeepSeek-V3 with one rank's share of experts: what a step takes beside the sum of
// its kernels' floors, and what 61 layers would.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/base/clock.h"
#include "tools/gpu/floor.h"
#include "tools/gpu/slice_runner.h"

namespace choir::gpu {

struct SliceOptions {
  SliceShape shape;
  SliceLimits limits;
  std::vector<int64_t> batches = {64, 128, 16, 1};    // those that figures ask about first
  std::vector<int64_t> prefills = {512, 4096};        // rows; each tells what the next will take
  int64_t model_layers = 61, model_dense_layers = 3;  // of the projection
  int64_t ranks = 8;
  bool early_starts = true;  // are allowed; steps of decode are also taken without them
  int steps = 12;            // timed of each kind at most
  double kind_seconds = 3;   // and about so long
  MonoTime deadline = MonoTime::max();
  CardOptions card;
  // Hears what is there after each kind of step, for the next may break the card.
  std::function<void(const nlohmann::ordered_json&)> progress;

  static SliceOptions Small();  // for an emulated card
};

// {"model", "table", "batches": those asked for, "steps": [{"kind", "rows", "ms", "plain_ms":
//  without graphs, "apart_ms": of decode without early starts, "floor_ms", "step_ratio",
//  "tokens_per_s", "gpu_ms": of kernels one by one, "graph_replays", "ops_ms": {...},
//  "ops_floor_ms": {...}}], "projection": [...], "lines", "failures"}.
nlohmann::ordered_json RunSlice(const cuda::DeviceTable& device, const cuda::KernelTable& table,
                                const Limits& limits, const SliceOptions& options);

// Times of steps with all layers and with the first two (one dense, one with experts), and of what
// is outside layers. Milliseconds.
struct SliceTimes {
  int64_t layers = 8;
  double all_ms = 0, two_ms = 0, outside_ms = 0;
};
struct ProjectedStep {
  double expert_layer_ms = 0, dense_layer_ms = 0, step_ms = 0;
};
ProjectedStep Project(const SliceTimes& times, int64_t model_layers, int64_t dense_layers);

}  // namespace choir::gpu
