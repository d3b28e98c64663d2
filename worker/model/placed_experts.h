// The experts that a rank computes: which rank has which, and the weights of its own. Immutable;
// one value serves every layer of a step, and all steps until the next placement is in force. What
// no value needs any more gives its memory back.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/ops/moe.h"
#include "worker/comm/expert_placement.h"

namespace choir {

// Experts that a rank reads for one placement: old and new ones are in memory until the switch.
inline constexpr int32_t kMovesMax = 64;
inline constexpr int32_t kDeviceMovesMax = 16;  // where that memory is a device's

struct PlacedExperts {
  static uint64_t NextSerial() {
    static std::atomic<uint64_t> last{0};
    return ++last;
  }

  const uint64_t serial = NextSerial();  // of this value alone, in the process
  int32_t rank = 0;
  // All by layer with experts; weights and memory then by slot, as ExpertsOf(rank) has them.
  std::vector<ExpertPlacement> layers;
  std::vector<std::vector<ExpertWeights>> weights;               // empty in models without any
  std::vector<std::vector<std::shared_ptr<const void>>> memory;  // what `weights` view
  // Slots before it are the device's, the rest are computed by the host (host_experts.h).
  std::vector<size_t> device_slots;
  int64_t loaded = 0;  // experts that were read from the files to make this value
};

}  // namespace choir
