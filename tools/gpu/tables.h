// The tables of kernels that a module has for a card, from the plainest to the fastest. The first
// is the oracle of the others there.
#pragma once

#include <string>
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

// Those up to a rung: "simple", "tensor" or "hopper"; empty: all. None where the card has not that
// rung.
inline std::vector<const cuda::KernelTable*> TablesUpTo(
    std::vector<const cuda::KernelTable*> tables, const cuda::Module& module,
    const std::string& rung) {
  const cuda::KernelTable* const last = rung == "simple"   ? &module.simple
                                        : rung == "tensor" ? &module.tensor
                                                           : &module.hopper;
  while (!rung.empty() && !tables.empty() && tables.back() != last) tables.pop_back();
  return tables;
}

}  // namespace choir::gpu
