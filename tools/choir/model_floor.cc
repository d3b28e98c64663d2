#include "tools/choir/model_floor.h"

#include <algorithm>
#include <cmath>

namespace choir {
namespace {

// The longer of reading and multiplying, in seconds.
double LeastSeconds(const FloorInput& in, double bytes, double flops) {
  const double multiply = in.flops_per_s > 0 ? flops / in.flops_per_s : 0.0;
  return std::max(bytes / in.read_bytes_per_s, multiply);
}

// By a token that sees `context` others, or as many as its layers' windows let it.
int64_t KvBytesRead(const KvLayout& kv, int64_t context) {
  int64_t elements = 0;
  for (const LayerKv& layer : kv.layers) {
    const int64_t tokens = layer.window > 0 ? std::min(context, layer.window) : context;
    elements += tokens * (layer.k_width + layer.v_width);
  }
  return elements * static_cast<int64_t>(SizeOf(kv.dtype));
}

}  // namespace

FloorInput FloorInputOf(const LoadedModel& model, const MachineRates& rates) {
  FloorInput in;
  in.info = model.info();
  in.kv = model.kv_layout();
  in.read_bytes_per_s = rates.read_bytes_per_s;
  const bool bf16 = model.compute() == Compute::kBF16 && rates.bf16_flops_per_s > 0;
  in.flops_per_s = bf16 ? rates.bf16_flops_per_s : rates.fma_flops_per_s;
  return in;
}

double StepWeightBytes(const ModelInfo& info, double rows) {
  const double active = static_cast<double>(info.active_weight_bytes);
  if (info.num_experts == 0) return active;
  const double experts = info.num_experts;
  const double missed = std::pow(1.0 - info.top_k / experts, rows);
  const double expert_bytes = static_cast<double>(info.expert_bytes);
  return active + (experts * (1.0 - missed) - info.top_k) * expert_bytes;
}

double DecodeFloor(const FloorInput& in, int64_t batch, int64_t context) {
  const double rows = static_cast<double>(batch);
  const double kv_bytes = rows * static_cast<double>(KvBytesRead(in.kv, context));
  const double bytes = StepWeightBytes(in.info, rows) + kv_bytes;
  return rows / LeastSeconds(in, bytes, rows * static_cast<double>(in.info.active_flops));
}

double PrefillFloor(const FloorInput& in, int64_t batch, int64_t prompt, int64_t step_tokens) {
  const int64_t tokens = batch * prompt;
  const int64_t steps = (tokens + step_tokens - 1) / step_tokens;
  const double rows = static_cast<double>(tokens) / static_cast<double>(steps);
  const double bytes = static_cast<double>(steps) * StepWeightBytes(in.info, rows);
  const double head = 2.0 * static_cast<double>(in.info.vocab * in.info.hidden);
  const double flops =
      static_cast<double>(tokens) * (static_cast<double>(in.info.active_flops) - head) +
      static_cast<double>(batch) * head;
  return static_cast<double>(tokens) / LeastSeconds(in, bytes, flops);
}

}  // namespace choir
