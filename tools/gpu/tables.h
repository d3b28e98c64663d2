// The tables of kernels that a module has for a card, from the plainest to the fastest. The first
// is the oracle of the others there.
#pragma once

#include <vector>

#include "kernels/cuda/module_api.h"

namespace choir::gpu {

inline std::vector<const cuda::KernelTable*> TablesOf(const cuda::Module& module,
                                                      const cuda::DeviceInfo& card) {
  std::vector<const cuda::KernelTable*> tables = {&module.simple, &module.tensor};
  const bool is_hopper = card.major == 9 && card.minor == 0;
  if (is_hopper && module.hopper.name != nullptr) tables.push_back(&module.hopper);
  return tables;
}

}  // namespace choir::gpu
