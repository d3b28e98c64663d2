// The options that say where experts are and how rows get to them: placement, experts that the CPU
// computes, the way between GPUs. A part of worker/config.h.
#pragma once

#include <cstdint>
#include <string>

#include "common/config/options.h"
#include "worker/config.h"

namespace choir {

// Adds them, and checks of what can be seen without a start.
void AddExpertOptions(OptionSet* options, WorkerConfig* config);
Status CheckExpertOptions(const WorkerConfig& config);

// Whether --expert-counts can be written: known at the start, not after a day's work. A start that
// is tried again looks at it itself.
Status CheckExpertCountsFolder(const WorkerConfig& config);

// --cpu-experts as HostExpertOptions::count has it. REQUIRES: `config` was read.
int64_t CpuExpertsOf(const WorkerConfig& config);

// --slot-rows and --slot-output-bytes as ranks use them: the host has to know the rows of experts
// that it computes.
SlotOptions SlotOptionsOf(const WorkerConfig& config);

// The options of expert placement, as ranks compare them.
std::string PlacementOf(const WorkerConfig& config);

}  // namespace choir
