// The physical floor of a model on a machine: how many tokens a second the measured memory
// bandwidth and multiply rate allow, if everything else were free. Pure.
#pragma once

#include <cstdint>

#include "tools/choir/machine_rates.h"
#include "worker/model/model.h"

namespace choir {

struct FloorInput {
  ModelInfo info;
  KvLayout kv;
  double read_bytes_per_s = 0;
  double flops_per_s = 0;  // 0: not known, the floor is then of bytes alone
};

FloorInput FloorInputOf(const LoadedModel& model, const MachineRates& rates);

// Weight bytes that a step of `rows` tokens has to read once. Of the routed experts: as many as
// rows with evenly spread choices reach.
double StepWeightBytes(const ModelInfo& info, double rows);

// Tokens a second for `batch` sequences that each have `context` tokens in the KV pool.
double DecodeFloor(const FloorInput& in, int64_t batch, int64_t context);

// Tokens a second for `batch` prompts of `prompt` tokens in steps of `step_tokens`. The head's
// products are needed for each prompt's last token only.
double PrefillFloor(const FloorInput& in, int64_t batch, int64_t prompt, int64_t step_tokens);

}  // namespace choir
