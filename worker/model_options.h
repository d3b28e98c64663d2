// A worker's options as its model and engine take them, and what it leaves for a later start.
#pragma once

#include <string>

#include "worker/backend.h"
#include "worker/config.h"
#include "worker/model/model.h"

namespace choir {

// All but the callbacks. `backend` outlives the model.
LoadOptions LoadOptionsOf(const WorkerConfig& config, const Backend& backend);

// `rows`: as DeviceJoin has it.
EngineOptions EngineOptionsOf(const WorkerConfig& config, RowPath rows);

// Why no step of this model can run as a graph of the GPU (--cuda-graph-rows); empty: steps can, or
// nobody expects it, as the CPU computes or --cuda-graph-rows is 0.
std::string WhyNoGraphs(const WorkerConfig& config, const Device& device, const ModelInfo& info);

// Writes --expert-counts, for --expert-hotness of a later start. What fails is logged.
void LeaveExpertCounts(const WorkerConfig& config, const ExpertCounts& counts);

}  // namespace choir
